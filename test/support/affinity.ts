import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'

/** The fleet's own configuration but for the sessions' stick table, in a file that lasts for the test. */
export function withoutAffinity(): string {
  const text = readFileSync('haproxy-compat/haproxy.cfg', 'utf8')
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-chaos-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  const file = join(folder, 'haproxy.cfg')
  const kept = text
    .split('\n')
    .filter((line) => !/^ *stick(-table type binary| match| store)/.test(line))
  writeFileSync(file, kept.join('\n').replaceAll('balance leastconn', 'balance roundrobin'))
  return file
}
