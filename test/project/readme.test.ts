import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { LIMITS, settingOf } from '../../mcp/limits.ts'
import { isFree } from '../support/ports.ts'

it('the README walk-through of the edge does as printed what it says', async () => {
  // As printed it serves port 8787, so nothing else may.
  await expect(fetch('http://localhost:8787/ready')).rejects.toThrow('fetch failed')
  const output = await run(scriptUnder('See it survive'))
  expectFailover(output)
  expect(output).toContain('Analysis complete: processed 3 items, total score=9.0')
  expect(output.match(/notifications\/message/g)).toHaveLength(7)
})

it('the README walk-through of the fleet does as printed what it says', async () => {
  const ports = [8080, 8404, 8001, 8002, 8003, 8005, 8006]
  expect(await Promise.all(ports.map(isFree)), `${ports.join()} are free`).not.toContain(false)
  expectFailover(await run(scriptUnder('The fleet')))
  expect(await Promise.all(ports.map(isFree))).not.toContain(false)
})

it('what is printed for who gets started with the edge works', async () => {
  const output = await run(scriptsIn('docs/getting-started.md', 'The edge'))
  expect(output).toContain('"name": "increment_counter"')
  expect(output).toContain('"counter": 1')
  expect(output).toContain('--dry-run: exiting now')
})

it('what is printed for who gets started with the fleet works', async () => {
  const output = await run(scriptsIn('docs/getting-started.md', 'The fleet'))
  expect(output).toMatch(/"instance": "mcp-server-[123]"/)
  expect(output.match(/^mcp-server-[123]\s+ready/gm)).toHaveLength(3)
})

it('the fleet is run as printed: seen, drained, replaced, its keys rotated, copied, restored, a session ended', async () => {
  const output = await run(scriptsIn('docs/operations.md'))
  const counters = [...output.matchAll(/"counter":(\d),"instance":"([\w-]+)"\},"isError"/g)]
  // The fifth came after the copy was made.
  expect(counters.map(([, counter]) => counter)).toEqual(['1', '2', '3', '4', '5', '5'])
  expect(counters[1]?.[2]).not.toBe('mcp-server-1')
  expect(output).toMatch(/Transfer finished with success|Write .* to/)
  expect(output.match(/Session not found/g)).toHaveLength(1)
})

it('static tokens are set up as printed', async () => {
  const output = await run(scriptUnder('Who may call', 'docs/security.md'))
  expect(output.match(/\d{3}$/gm)).toEqual(['200', '401'])
})

it('the table of limits names them all, with their defaults', () => {
  const rows = [...read('docs/security.md').matchAll(/^\| `([A-Z_]+)`[^|]*\| (\d+) \|/gm)]
  const known = Object.entries(LIMITS).map(([name, value]) => [settingOf(name), String(value)])
  expect(rows.map(([, name, value]) => [name, value])).toEqual(known)
})

it('the README tells of itself in 30 lines or so', () => {
  const [introduction = ''] = read('README.md').split('## See it survive')
  expect(introduction.trimEnd().split('\n').length).toBeLessThanOrEqual(36)
})

it.each(['README.md', 'docs/measurements.md', 'docs/failure-modes.md', 'docs/security.md'])(
  '%s names scripts and files that are there',
  (file) => {
    const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> }
    const named = [...read(file).matchAll(/`(?:npm run )?((?:bench|test):\w+)`|`npm run (\w+)`/g)]
    const missing = named.flatMap(([, first, second]) => first ?? second ?? [])
    expect(missing.filter((name) => !(name in scripts))).toEqual([])
    const files = [...read(file).matchAll(/`((?:test|client|bench)\/[\w./-]+\.ts)`/g)]
    expect(files.flatMap(([, path = '']) => (existsSync(path) ? [] : path))).toEqual([])
  },
)

/** The first printed commands under a heading. */
function scriptUnder(heading: string, file = 'README.md'): string {
  const [, section = ''] = read(file).split(`\n## ${heading}\n`)
  return /```sh\n(.*?)```/s.exec(section)?.[1] ?? ''
}

/** All commands that a page, or one of its sections, has printed. */
function scriptsIn(file: string, heading?: string): string {
  const page = read(file)
  const section =
    heading === undefined ? page : page.split(`\n## ${heading}\n`)[1]?.split('\n## ')[0]
  return [...(section ?? '').matchAll(/```sh\n(.*?)```/gs)].map(([, script]) => script).join('')
}

/** The counter goes on to 3, and the third time another instance says so. */
function expectFailover(output: string): void {
  const counters = [...output.matchAll(/"counter":(\d),"instance":"([\w-]+)"\},"isError"/g)]
  expect(counters.map(([, counter]) => counter)).toEqual(['1', '2', '3'])
  expect(counters[0]?.[2]).toBe(counters[1]?.[2])
  expect(counters[2]?.[2]).not.toBe(counters[1]?.[2])
}

const OWN_STATE = new Set(['.wrangler', '.fleet'])

/** Runs `script` as someone at a terminal would, in a folder that has nothing but the project. */
async function run(script: string): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-readme-'))
  for (const name of readdirSync('.').filter((entry) => !OWN_STATE.has(entry))) {
    symlinkSync(join(process.cwd(), name), join(folder, name))
  }
  // set -m: each background job gets a process group of its own, as at a prompt.
  const shell = spawn('bash', ['-c', `set -m\n${script}`], { cwd: folder, detached: true })
  let output = ''
  for (const stream of [shell.stdout, shell.stderr]) stream.on('data', (text) => (output += text))
  // Not `exit`: what it has started is to be gone too, with its ports.
  await once(shell, 'close')
  rmSync(folder, { recursive: true })
  return output
}

function read(file: string): string {
  return readFileSync(file, 'utf8')
}
