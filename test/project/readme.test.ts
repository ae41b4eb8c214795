import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it } from 'vitest'

it('the README walk-through does as printed what it says', async () => {
  // As printed it serves port 8787, so nothing else may.
  await expect(fetch('http://localhost:8787/ready')).rejects.toThrow('fetch failed')
  const [, script = ''] = /## See it survive\n\n```sh\n(.*?)```/s.exec(read('README.md')) ?? []
  const output = await run(script)
  const counters = [...output.matchAll(/"counter":(\d),"instance":"([\w-]+)"\},"isError"/g)]
  expect(counters.map(([, counter]) => counter)).toEqual(['1', '2', '3'])
  expect(counters[0]?.[2]).toBe(counters[1]?.[2])
  expect(counters[2]?.[2]).not.toBe(counters[1]?.[2])
  expect(output).toContain('Analysis complete: processed 3 items, total score=9.0')
  expect(output.match(/notifications\/message/g)).toHaveLength(7)
})

it('the README tells of itself in 30 lines or so', () => {
  const [introduction = ''] = read('README.md').split('## See it survive')
  expect(introduction.trimEnd().split('\n').length).toBeLessThanOrEqual(36)
})

/** Runs `script` as someone at a terminal would, in a folder that has nothing but the project. */
async function run(script: string): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-readme-'))
  for (const name of readdirSync('.').filter((entry) => entry !== '.wrangler')) {
    symlinkSync(join(process.cwd(), name), join(folder, name))
  }
  // set -m: each background job gets a process group of its own, as at a prompt.
  const shell = spawn('bash', ['-c', `set -m\n${script}`], { cwd: folder, detached: true })
  let output = ''
  for (const stream of [shell.stdout, shell.stderr]) stream.on('data', (text) => (output += text))
  await once(shell, 'exit')
  rmSync(folder, { recursive: true })
  return output
}

function read(file: string): string {
  return readFileSync(file, 'utf8')
}
