import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'

export interface Suite {
  readonly name: string
  readonly scenarios: readonly Scenario[]
  readonly output: string
  readonly exitCode: number
}

interface Scenario {
  readonly name: string
  readonly passed: boolean
}

// The two released lines of the official suite, and what of each must pass without exception.
const SUITES = [
  {
    name: '0.1.16 active',
    package: '@modelcontextprotocol/conformance',
    args: ['--suite', 'active'],
  },
  {
    name: '0.2.0-alpha.12, requirements of 2025-11-25',
    package: 'conformance-next',
    args: ['--requirements', '2025-11-25'],
  },
] as const

/** Runs the official conformance suites against the server at `url`. */
export async function runSuites(url: string): Promise<Suite[]> {
  const suites: Suite[] = []
  for (const suite of SUITES) suites.push(await runSuite(suite, url))
  return suites
}

async function runSuite(suite: (typeof SUITES)[number], url: string): Promise<Suite> {
  const script = join(packageFolder(suite.package), 'dist/index.js')
  const child = spawn(process.execPath, [script, 'server', '--url', `${url}/mcp`, ...suite.args])
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (text) => (output += text))
  const [exitCode] = (await once(child, 'exit')) as [number]
  const summary = output.slice(output.lastIndexOf('=== SUMMARY ==='))
  const scenarios = [...summary.matchAll(/^(✓|✗|~) ([\w-]+):.*?(\d+) failed/gm)].map(
    ([, mark, name = '', failed]) => ({ name, passed: mark === '✓' && failed === '0' }),
  )
  return { name: suite.name, scenarios, output, exitCode }
}

function packageFolder(name: string): string {
  return dirname(createRequire(import.meta.url).resolve(`${name}/package.json`))
}
