import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { parseConfig } from '../../mcp/config.ts'
import { findingsAbout, isAtLeast, type Check, type Finding } from '../findings.ts'

const { ok, warning, problem } = findingsAbout('haproxy')
const SHIPPED = fileURLToPath(new URL('../../haproxy-compat/haproxy.cfg', import.meta.url))
// Sending a request again that has a body, and naming headers by how they begin.
const LEAST_HAPROXY = '2.6'
/** A stream that skips a few comments is not dead. */
const ENOUGH_COMMENTS = 3

/** That HAProxy is there, takes its configuration, and that this goes with the server's settings. */
export const checkHaproxy: Check = async ({ env }) => {
  const file = env['HAPROXY_CONFIG'] || SHIPPED
  if (!existsSync(file)) return [problem(`there is no ${file}: see HAPROXY_CONFIG`)]
  const settings = settingsOf(env)
  const lines = readLines(file)
  return [
    ...checkProgram(file, env),
    ...checkTables(lines, settings.ttlMs),
    ...['client', 'server', 'tunnel'].map((side) => checkTimeout(side, lines, settings)),
  ]
}

type Settings = Pick<ReturnType<typeof parseConfig>, 'ttlMs' | 'keepAliveMs'>

/** What is wrong with them was said with the settings. */
function settingsOf(env: NodeJS.ProcessEnv): Settings {
  try {
    return parseConfig(env)
  } catch {
    return parseConfig({})
  }
}

function checkProgram(file: string, env: NodeJS.ProcessEnv): readonly Finding[] {
  const { stdout, error } = spawnSync('haproxy', ['-v'], { encoding: 'utf8', env })
  if (error !== undefined) {
    return [warning('it is not installed here, so it was not asked whether it takes its file')]
  }
  const [, version = 'unknown'] = /version (\d+(?:\.\d+)*)/.exec(stdout) ?? []
  if (!isAtLeast(version, LEAST_HAPROXY)) {
    return [problem(`${version} is older than ${LEAST_HAPROXY}: install a later one`)]
  }
  const check = spawnSync('haproxy', ['-c', '-f', file], { encoding: 'utf8', env })
  if (check.status === 0) return [ok(`${version} takes ${file}`)]
  const [, first = 'haproxy -c says why'] = /\[ALERT\][^:]*: (.*)/.exec(check.stderr) ?? []
  return [problem(`${version} does not take ${file}: ${first}`)]
}

/** Each table by which requests are sent on has to remember a session for as long as it lives. */
function checkTables(lines: readonly Line[], ttlMs: number): readonly Finding[] {
  // In a section of its own it is named by those that use it.
  const sticking = new Set(
    lines
      .filter(({ text }) => /^stick (match|on|store)/.test(text))
      .map(({ section, text }) => /\stable (\S+)/.exec(text)?.[1] ?? nameOf(section)),
  )
  const tables = lines.filter(
    ({ section, text }) => text.startsWith('stick-table ') && sticking.has(nameOf(section)),
  )
  if (tables.length === 0) {
    return [warning('it has no stick table: calls are served by any instance, which is slower')]
  }
  const wanted = `SESSION_TTL_SECONDS (${ttlMs / 1000})`
  return tables.map(({ section, text }) => {
    const [, expire] = /\sexpire (\S+)/.exec(text) ?? []
    if (expire !== undefined && milliseconds(expire) === ttlMs) {
      return ok(`the stick table of "${section}" remembers a session as long as it lives`)
    }
    return problem(
      `the stick table of "${section}" has ${expire === undefined ? 'no expire' : `expire ${expire}`}` +
        `, and a session lives for ${wanted}: set it to ${ttlMs / 1000}s`,
    )
  })
}

function checkTimeout(side: string, lines: readonly Line[], { keepAliveMs }: Settings): Finding {
  const found = lines.flatMap(({ text }) => {
    const [, value] = new RegExp(`^timeout ${side} (\\S+)`).exec(text) ?? []
    return value === undefined ? [] : [value]
  })
  const enough = `at least ${(ENOUGH_COMMENTS * keepAliveMs) / 1000}s is good`
  const [shortest] = found.toSorted((a, b) => milliseconds(a) - milliseconds(b))
  if (shortest === undefined) {
    return warning(`there is no "timeout ${side}": what hangs is waited for; ${enough}`)
  }
  const about = `timeout ${side} ${shortest}`
  const comments = `a quiet stream has a comment every ${keepAliveMs / 1000}s (KEEP_ALIVE_SECONDS)`
  if (milliseconds(shortest) <= keepAliveMs) {
    return problem(`"${about}" cuts streams: ${comments}; ${enough}`)
  }
  if (milliseconds(shortest) < ENOUGH_COMMENTS * keepAliveMs) {
    return warning(`"${about}" is short: ${comments}; ${enough}`)
  }
  return ok(`"${about}" is enough for streams`)
}

interface Line {
  /** As it is headed: `backend mcp`. */
  readonly section: string
  readonly text: string
}

function nameOf(section: string): string {
  return section.split(/\s+/)[1] ?? ''
}

const SECTION = /^(global|defaults|frontend|backend|listen|peers|resolvers)\b.*/

function readLines(file: string): readonly Line[] {
  let section = ''
  return readFileSync(file, 'utf8')
    .split('\n')
    .map((line) => line.replace(/(^|\s)#.*/, '').trim())
    .map((text) => {
      if (SECTION.test(text)) section = text
      return { section, text }
    })
}

const UNITS: Readonly<Record<string, number>> = {
  us: 0.001,
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
}

/** HAProxy counts in milliseconds where no unit is told. */
function milliseconds(text: string): number {
  const [, number, unit = 'ms'] = /^(\d+)([a-z]+)?$/.exec(text) ?? []
  return Number(number) * (UNITS[unit] ?? Number.NaN)
}
