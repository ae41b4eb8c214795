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
import { parseArgs } from 'node:util'
import { gzipSync } from 'node:zlib'
import { Agent, request as httpRequest } from 'node:http'
import { convertV4MiniflareOptions, Miniflare } from 'miniflare'
import { countRows } from './rows.ts'

const { values: flags } = parseArgs({
  options: {
    seconds: { type: 'string', default: '3' },
    rounds: { type: 'string', default: '5' },
  },
})
const SECONDS = Number(flags.seconds)
const ROUNDS = Number(flags.rounds)
const SESSIONS = 32
const compatibilityDate = '2026-10-20'

interface Subject {
  readonly name: string
  readonly config: string
  readonly path: string
  readonly objects: readonly (readonly [binding: string, className: string])[]
}

const SUBJECTS: readonly Subject[] = [
  {
    name: 'holdfast',
    config: 'wrangler.toml',
    path: '/mcp',
    objects: [
      ['SESSIONS', 'McpSession'],
      ['INDEX', 'SessionIndex'],
    ],
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
const agent = new Agent({ keepAlive: true, maxSockets: 64 })

try {
  const running = []
  for (const subject of SUBJECTS) running.push(await start(subject))
  await measure(running)
  for (const { miniflare } of running) await miniflare.dispose()
} finally {
  agent.destroy()
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
  const file = readdirSync(outdir).find((name) => name.endsWith('.js')) ?? 'index.js'
  const bundle = readFileSync(join(outdir, file))
  const { objects } = subject
  const counted = { bundle: bundle.toString(), compatibilityDate, objects, openSession, call }
  const rows = await countRows(counted)
  const before = workerds()
  const miniflare = createMiniflare(subject, bundle)
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
    subject,
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

function createMiniflare({ name, objects }: Subject, bundle: Buffer): Miniflare {
  return new Miniflare(
    convertV4MiniflareOptions({
      modules: [{ type: 'ESModule', path: 'index.js', contents: bundle.toString() }],
      compatibilityDate,
      bindings: { ALLOWED_HOSTS: 'localhost,127.0.0.1' },
      durableObjects: Object.fromEntries(
        objects.map(([binding, className]) => [binding, { className, useSQLite: true }]),
      ),
      resourcePersistencePath: join(scratch, `${name}-data`),
    }),
  )
}

async function measure(running: readonly Running[]): Promise<void> {
  for (const target of running) await load(target, 32, 1, false)
  for (let turn = 0; turn < ROUNDS; turn++) {
    for (const connections of [1, 32] as const) {
      for (const target of shuffled(running)) await load(target, connections, SECONDS, true)
    }
  }
  for (const target of running) await checkCounters(target)
  print(running)
}

async function load(
  target: Running,
  connections: 1 | 32,
  seconds: number,
  kept: boolean,
): Promise<void> {
  const until = performance.now() + seconds * 1000
  const latencies: number[] = []
  const cpuBefore = cpuSeconds(target.pid)
  const begun = performance.now()
  await Promise.all(
    Array.from({ length: connections }, async (_, client) => {
      for (let turn = client; performance.now() < until; turn += connections) {
        const session = target.sessions[turn % SESSIONS]
        if (session === undefined) continue
        const sent = performance.now()
        const counter = counterOf(await call(target.url, session.id))
        latencies.push(performance.now() - sent)
        if (counter !== ++session.calls) throw new Error(`${target.subject.name}: counter is off`)
      }
    }),
  )
  const tookSeconds = (performance.now() - begun) / 1000
  if (!kept) return
  target.latencies[connections].push(...latencies)
  target.rates[connections].push(latencies.length / tookSeconds)
  target.cpuMs[connections].push(((cpuSeconds(target.pid) - cpuBefore) * 1000) / latencies.length)
}

async function checkCounters({ url, sessions, subject }: Running): Promise<void> {
  for (const session of sessions) {
    const counter = counterOf(await call(url, session.id))
    if (counter !== ++session.calls)
      throw new Error(`${subject.name}: ${counter} of ${session.calls}`)
  }
}

function print(running: readonly Running[]): void {
  const floor = running.find(({ subject }) => subject.name === 'floor')
  const opponent = running.find(({ subject }) => subject.name === 'McpAgent')
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
            target.subject.name,
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
        target.subject.name,
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

async function openSession(url: URL): Promise<string> {
  const params = {
    protocolVersion: '2025-11-25',
    capabilities: {},
    clientInfo: { name: 'bench', version: '0' },
  }
  const { headers } = await post(url, { jsonrpc: '2.0', id: 0, method: 'initialize', params })
  const id = String(headers['mcp-session-id'])
  await post(url, { jsonrpc: '2.0', method: 'notifications/initialized' }, id)
  return id
}

async function call(url: URL, session: string): Promise<string> {
  const params = { name: 'increment_counter', arguments: {} }
  return (await post(url, { jsonrpc: '2.0', id: 1, method: 'tools/call', params }, session)).body
}

function counterOf(body: string): number {
  return Number(/\\"counter\\":(\d+)/.exec(body)?.[1])
}

function post(url: URL, message: object, session?: string) {
  const body = JSON.stringify(message)
  const headers = {
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(body),
    accept: 'application/json, text/event-stream',
    ...(session !== undefined && {
      'mcp-session-id': session,
      'mcp-protocol-version': '2025-11-25',
    }),
  }
  const { promise, resolve, reject } = Promise.withResolvers<{
    headers: NodeJS.Dict<string | string[]>
    body: string
  }>()
  const request = httpRequest(url, { method: 'POST', agent, headers }, (response) => {
    let text = ''
    response.setEncoding('utf8')
    response.on('data', (chunk: string) => (text += chunk))
    response.on('end', () => {
      if ((response.statusCode ?? 500) < 300) resolve({ headers: response.headers, body: text })
      else reject(new Error(`HTTP ${response.statusCode}: ${text}`))
    })
  })
  request.on('error', reject)
  request.end(body)
  return promise
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

function cpuSeconds(pid: number): number {
  const [, rest = ''] = /\) (.*)/s.exec(readFileSync(`/proc/${pid}/stat`, 'utf8')) ?? []
  const [user = 0, system = 0] = rest.split(' ').slice(11, 13).map(Number)
  return (user + system) / 100
}

function percentile(values: readonly number[], percent: number): number {
  const sorted = values.toSorted((a, b) => a - b)
  return (
    sorted[Math.min(sorted.length - 1, Math.floor((sorted.length * percent) / 100))] ?? Number.NaN
  )
}

function median(values: readonly number[]): number {
  return percentile(values, 50)
}

function ratio(value: number, base: number | undefined): number {
  return base === undefined ? Number.NaN : round(value / base)
}

function round(value: number): number {
  return Math.round(value * 100) / 100
}

function shuffled<T>(values: readonly T[]): T[] {
  return values
    .map((value) => ({ value, place: Math.random() }))
    .toSorted((a, b) => a.place - b.place)
    .map(({ value }) => value)
}
