/**
 * How much does a call cost on the edge? Ours against Cloudflare's McpAgent and against a floor
 * without SDK, on one workerd each, in one run, interleaved in random order. Every counter is
 * checked at the end. Local workerd: ratios are the result, absolute numbers are not.
 *
 *   npm run bench:edge [-- --seconds 3 --rounds 5]
 */
import { execFileSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { convertV4MiniflareOptions, Miniflare } from 'miniflare'
import { modulesIn, type BundledModules } from '../test/support/bundle.ts'
import { percentile } from '../test/support/percentile.ts'
import { cpuSeconds, median, ratio, round, shuffled } from './figures.ts'
import { parseFlags } from './flags.ts'
import { call, callByHandle, checkCounters, closeConnections, load, openSession } from './load.ts'
import { countRows } from './rows.ts'

const { seconds: SECONDS, rounds: ROUNDS } = parseFlags({ seconds: 3, rounds: 5 })
const SESSIONS = 32
const compatibilityDate = '2026-10-20'

interface Subject {
  readonly name: string
  readonly config: string
  readonly path: string
  readonly objects: readonly (readonly [binding: string, className: string])[]
  readonly call?: typeof call
}

const SUBJECTS: readonly Subject[] = [
  {
    name: 'holdfast',
    config: 'wrangler.toml',
    path: '/mcp',
    objects: [
      ['SESSION_OBJECTS', 'McpSession'],
      ['INDEX', 'SessionIndex'],
    ],
  },
  {
    name: 'holdfast, 2026-07-28',
    config: 'wrangler.toml',
    path: '/mcp',
    objects: [
      ['SESSION_OBJECTS', 'McpSession'],
      ['INDEX', 'SessionIndex'],
    ],
    call: callByHandle,
  },
  {
    name: 'McpAgent',
    config: 'bench/opponents/mcp-agent.toml',
    path: '/mcp',
    objects: [['SESSIONS', 'Agent']],
  },
  {
    name: 'floor',
    config: 'bench/opponents/floor.toml',
    path: '/mcp',
    objects: [['SESSIONS', 'Floor']],
  },
]

const scratch = mkdtempSync(join(tmpdir(), 'bench-edge-'))

try {
  const running = []
  for (const subject of SUBJECTS) running.push(await start(subject))
  await measure(running)
  for (const { miniflare } of running) await miniflare.dispose()
} finally {
  closeConnections()
  rmSync(scratch, { recursive: true })
}

type Running = Awaited<ReturnType<typeof start>>

async function start(subject: Subject) {
  const outdir = join(scratch, subject.config.replaceAll('/', '-'))
  execFileSync(
    'npx',
    ['wrangler', 'deploy', '--dry-run', '--minify', '-c', subject.config, '--outdir', outdir],
    { stdio: 'pipe' },
  )
  const modules = modulesIn(outdir)
  const bundle = Buffer.from(modules.map(({ contents }) => contents).join(''))
  const { objects } = subject
  const ask = subject.call ?? call
  const counted = { modules, compatibilityDate, objects, openSession, call: ask }
  const rows = await countRows(counted)
  const before = workerds()
  const miniflare = createMiniflare(subject, modules)
  const url = new URL(subject.path, await miniflare.ready)
  const pid = workerds().find((known) => !before.includes(known)) ?? 0

  const cold = performance.now()
  const sessions = [await openSession(url)]
  const firstRequestMs = performance.now() - cold
  const opening: number[] = []
  while (sessions.length < SESSIONS) {
    const begun = performance.now()
    sessions.push(await openSession(url))
    opening.push(performance.now() - begun)
  }
  return {
    name: subject.name,
    call: ask,
    miniflare,
    url,
    pid,
    sessions: sessions.map((id) => ({ id, calls: 0 })),
    rows,
    kilobytes: bundle.length / 1000,
    gzipped: gzipSync(bundle).length / 1000,
    firstRequestMs,
    openMs: percentile(opening, 50),
    latencies: { 1: [] as number[], 32: [] as number[] },
    rates: { 1: [] as number[], 32: [] as number[] },
    cpuMs: { 1: [] as number[], 32: [] as number[] },
  }
}

function createMiniflare({ name, objects }: Subject, modules: BundledModules): Miniflare {
  return new Miniflare(
    convertV4MiniflareOptions({
      modules,
      compatibilityDate,
      compatibilityFlags: ['enable_request_signal', 'request_signal_passthrough'],
      bindings: { ALLOWED_HOSTS: 'localhost,127.0.0.1' },
      durableObjects: Object.fromEntries(
        objects.map(([binding, className]) => [binding, { className, useSQLite: true }]),
      ),
      resourcePersistencePath: join(scratch, `${name}-data`),
    }),
  )
}

async function measure(running: readonly Running[]): Promise<void> {
  for (const target of running) await load(target, { connections: 32, seconds: 1 })
  for (let turn = 0; turn < ROUNDS; turn++) {
    for (const connections of [1, 32] as const) {
      for (const target of shuffled(running)) await measureOne(target, connections)
    }
  }
  for (const target of running) await checkCounters(target)
  print(running)
}

async function measureOne(target: Running, connections: 1 | 32): Promise<void> {
  const cpuBefore = cpuSeconds(target.pid)
  const { latencies, tookSeconds } = await load(target, { connections, seconds: SECONDS })
  target.latencies[connections].push(...latencies)
  target.rates[connections].push(latencies.length / tookSeconds)
  target.cpuMs[connections].push(((cpuSeconds(target.pid) - cpuBefore) * 1000) / latencies.length)
}

function print(running: readonly Running[]): void {
  const floor = running.find(({ name }) => name === 'floor')
  const opponent = running.find(({ name }) => name === 'McpAgent')
  for (const connections of [1, 32] as const) {
    console.log(
      `\n${connections} connection(s), ${SESSIONS} sessions, ${ROUNDS} rounds of ${SECONDS} s`,
    )
    console.table(
      Object.fromEntries(
        running.map((target) => {
          const rate = median(target.rates[connections])
          const p99 = percentile(target.latencies[connections], 99)
          return [
            target.name,
            {
              'req/s': Math.round(rate),
              'p50 ms': round(percentile(target.latencies[connections], 50)),
              'p99 ms': round(p99),
              'CPU ms/call': round(median(target.cpuMs[connections])),
              'req/s : McpAgent': ratio(rate, opponent && median(opponent.rates[connections])),
              'p99 : McpAgent': ratio(
                p99,
                opponent && percentile(opponent.latencies[connections], 99),
              ),
              'req/s : floor': ratio(rate, floor && median(floor.rates[connections])),
            },
          ]
        }),
      ),
    )
  }
  console.log('\nOnce')
  console.table(
    Object.fromEntries(
      running.map((target) => [
        target.name,
        {
          'rows/session': round(target.rows.perSession),
          'rows/call': round(target.rows.perCall),
          'minified kB': round(target.kilobytes),
          'gzip kB': round(target.gzipped),
          'first request ms': round(target.firstRequestMs),
          'new session p50 ms': round(target.openMs),
        },
      ]),
    ),
  )
}

/** The workerd processes that this one has started, directly or not. */
function workerds(): number[] {
  return readdirSync('/proc')
    .map(Number)
    .filter((pid) => pid > 0 && existsSync(`/proc/${pid}/stat`) && isOwnWorkerd(pid))
}

function isOwnWorkerd(pid: number): boolean {
  const [, name, rest = ''] = /\((.*)\) (.*)/s.exec(readFileSync(`/proc/${pid}/stat`, 'utf8')) ?? []
  return name === 'workerd' && Number(rest.split(' ')[1]) === process.pid
}
