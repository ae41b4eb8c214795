import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'

/** What the two released lines of the official suite demand, without exception. */
export const SUITES = [
  {
    name: '2025-11-25 by 0.1.16',
    package: '@modelcontextprotocol/conformance',
    args: ['--suite', 'active'],
    scenarios: 30,
    unscored: [],
  },
  {
    name: '2025-11-25 by 0.2.0-alpha.12',
    package: 'conformance-next',
    args: ['--requirements', '2025-11-25'],
    scenarios: 30,
    unscored: ['json-schema-2020-12', 'server-session-lifecycle', 'server-sse-polling'],
  },
  {
    name: '2026-07-28 by 0.2.0-alpha.12',
    package: 'conformance-next',
    args: ['--requirements', '2026-07-28'],
    scenarios: 37,
    unscored: [
      'http-custom-header-server-validation',
      'http-header-validation',
      'json-schema-2020-12',
    ],
  },
] as const

export type Suite = (typeof SUITES)[number]

export interface Outcome {
  /** The names of the scenarios that ran, in alphabetical order. */
  readonly passed: readonly string[]
  readonly failed: readonly string[]
  readonly exitCode: number
  readonly output: string
}

/** Runs an official suite against the server at `url`. */
export async function runSuite({ package: name, args }: Suite, url: string): Promise<Outcome> {
  const folder = mkdtempSync(join(tmpdir(), 'conformance-'))
  try {
    const script = join(packageFolder(name), 'dist/index.js')
    const child = spawn(process.execPath, [script, 'server', '--url', url, ...args, '-o', folder])
    let output = ''
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (text) => (output += text))
    const [exitCode] = (await once(child, 'close')) as [number]
    return { ...scenariosIn(folder), exitCode, output }
  } finally {
    rmSync(folder, { recursive: true })
  }
}

// An extension that is not served; no revision requires it, but its scenarios always run.
const TASKS = /^tasks-/

/** The suite writes a folder for each scenario: what it is, its name, when it ran. */
function scenariosIn(folder: string): Pick<Outcome, 'passed' | 'failed'> {
  const scenarios = readdirSync(folder)
    .map((entry) => ({
      name: entry.replaceAll(/^server-|-\d{4}-\d\d-\d\dT.*$/g, ''),
      isPassed: isPassed(join(folder, entry, 'checks.json')),
    }))
    .filter(({ name }) => !TASKS.test(name))
    .toSorted((a, b) => (a.name < b.name ? -1 : 1))
  return {
    passed: scenarios.filter((scenario) => scenario.isPassed).map(({ name }) => name),
    failed: scenarios.filter((scenario) => !scenario.isPassed).map(({ name }) => name),
  }
}

/** Stricter than the suite itself, to which a warning is as good as a success. */
function isPassed(file: string): boolean {
  // It is missing where the scenario broke off.
  if (!existsSync(file)) return false
  const checks = JSON.parse(readFileSync(file, 'utf8')) as { status: string }[]
  const statuses = checks.map(({ status }) => status)
  return statuses.includes('SUCCESS') && !statuses.some((one) => /^(FAILURE|WARNING)$/.test(one))
}

function packageFolder(name: string): string {
  return dirname(createRequire(import.meta.url).resolve(`${name}/package.json`))
}
