/**
 * How much does a call cost on the fleet? Ours against the official SDK's example server and
 * against a floor without SDK: each three instances behind HAProxy with the same haproxy.cfg, each
 * with a Redis of its own, and one instance more without HAProxy. Interleaved in random order.
 * Every counter is checked. One machine serves and calls: ratios are the result, absolute numbers
 * are not.
 *
 * Redis writes its log to disk once a second, for all three. `npm run fleet` lets it write before
 * each answer; that is a price of the disk, the same for all, and would hide what differs. `--fsync
 * always` measures with it.
 *
 *   npm run bench:fleet [-- --seconds 2 --rounds 5 --fsync everysec]
 */
import { requireProgram } from '../haproxy-compat/programs.ts'
import { percentile } from '../test/support/percentile.ts'
import { median, ratio, round, shuffled } from './figures.ts'
import { parseFlags } from './flags.ts'
import { call, checkCounters, closeConnections, load, openSession, type Target } from './load.ts'
import { INSTANCE, startStack, stopStacks, type Entry } from './stack.ts'

const flags = parseFlags({ seconds: 2, rounds: 5, fsync: 'everysec' })
const { seconds: SECONDS, rounds: ROUNDS } = flags
const SESSIONS = 48
// For each instance, as each compiles its code itself.
const WARM_UP_SECONDS = 10
const CONNECTIONS = [1, 16, 48] as const
const REDIS_ARGS = ['--save', '', '--appendonly', 'yes', '--appendfsync', flags.fsync]

const SUBJECTS = [
  { name: 'holdfast', program: INSTANCE },
  { name: 'SDK', program: 'bench/opponents/sdk-server.ts' },
  { name: 'floor', program: 'bench/opponents/redis-floor.ts' },
] as const
type Subject = (typeof SUBJECTS)[number]

try {
  for (const program of ['redis-server', 'haproxy'] as const) requireProgram(program)
  const running: Running[] = []
  for (const subject of SUBJECTS) {
    const { fleet, alone } = await startStack({ program: subject.program, redisArgs: REDIS_ARGS })
    running.push(await open(subject, fleet, 'fleet'), await open(subject, alone, 'alone'))
  }
  await measure(running)
} finally {
  closeConnections()
  await stopStacks()
}

type Kind = 'fleet' | 'alone'
type Connections = (typeof CONNECTIONS)[number]

interface Running extends Target {
  readonly subject: Subject['name']
  readonly kind: Kind
  readonly entry: Entry
  readonly spread: readonly number[]
  readonly rounds: Record<Connections, Round[]>
}

interface Round {
  readonly latencies: readonly number[]
  readonly rate: number
  /** A call's, by who spent it. */
  readonly cpuMs: Spent
  /** How much of a core the load generator took. */
  readonly clientLoad: number
}

interface Spent {
  readonly instances: number
  readonly haproxy: number
  readonly redis: number
}

async function open({ name }: Subject, entry: Entry, kind: Kind): Promise<Running> {
  const sessions: { id: string; calls: number }[] = []
  const held = new Map<string, number>()
  while (sessions.length < SESSIONS) {
    const id = await openSession(entry.url)
    const [, instance = '?'] = /\\"instance\\":\\"([^"\\]+)/.exec(await call(entry.url, id)) ?? []
    held.set(instance, (held.get(instance) ?? 0) + 1)
    sessions.push({ id, calls: 1 })
  }
  const spread = [...held.values()]
  const rounds = { 1: [], 16: [], 48: [] }
  return {
    subject: name,
    name: `${name}, ${kind}`,
    kind,
    url: entry.url,
    entry,
    sessions,
    spread,
    rounds,
  }
}

async function measure(running: readonly Running[]): Promise<void> {
  for (const target of running) {
    const seconds = WARM_UP_SECONDS * target.entry.instances.length
    await load(target, { connections: SESSIONS, seconds })
  }
  for (let turn = 0; turn < ROUNDS; turn++) {
    for (const connections of CONNECTIONS) {
      for (const target of shuffled(running)) {
        target.rounds[connections].push(await measureOne(target, connections))
      }
    }
  }
  for (const target of running) await checkCounters(target)
  for (const connections of CONNECTIONS) {
    for (const kind of ['fleet', 'alone'] as const) {
      print(
        connections,
        kind,
        running.filter((target) => target.kind === kind),
      )
    }
  }
  printOnce(running)
}

async function measureOne({ entry, ...target }: Running, connections: Connections): Promise<Round> {
  const before = spent(entry)
  const client = process.cpuUsage()
  const { latencies, tookSeconds } = await load(target, { connections, seconds: SECONDS })
  const { user, system } = process.cpuUsage(client)
  const after = spent(entry)
  const perCall = (part: keyof Spent): number =>
    ((after[part] - before[part]) * 1000) / latencies.length
  return {
    latencies,
    rate: latencies.length / tookSeconds,
    cpuMs: {
      instances: perCall('instances'),
      haproxy: perCall('haproxy'),
      redis: perCall('redis'),
    },
    clientLoad: (user + system) / 1e6 / tookSeconds,
  }
}

/** Seconds of CPU so far. */
function spent({ instances, haproxy, redis }: Entry): Spent {
  return {
    instances: instances.reduce((sum, instance) => sum + instance.cpuSeconds(), 0),
    haproxy: haproxy?.cpuSeconds() ?? 0,
    redis: redis.cpuSeconds(),
  }
}

function print(connections: Connections, kind: Kind, targets: readonly Running[]): void {
  const place = kind === 'fleet' ? 'three instances behind HAProxy' : 'one instance, no HAProxy'
  console.log(
    `\n${connections} connection(s), ${place}, ${SESSIONS} sessions, ${ROUNDS} rounds of ${SECONDS} s`,
  )
  const rows = targets.map((target) => ({
    ...figures(target.rounds[connections]),
    subject: target.subject,
  }))
  const sdk = rows.find(({ subject }) => subject === 'SDK')
  const floor = rows.find(({ subject }) => subject === 'floor')
  console.table(
    Object.fromEntries(
      rows.map(({ subject, rate, p50, p99, ...row }) => [
        subject,
        {
          'req/s': Math.round(rate),
          'p50 ms': round(p50),
          'p99 ms': round(p99),
          'CPU ms/call': round(row.instances),
          HAProxy: round(row.haproxy),
          Redis: round(row.redis),
          'client cores': round(row.clientLoad),
          'req/s : SDK': ratio(rate, sdk?.rate),
          'p99 : SDK': ratio(p99, sdk?.p99),
          'req/s : floor': ratio(rate, floor?.rate),
        },
      ]),
    ),
  )
}

function figures(rounds: readonly Round[]) {
  const latencies = rounds.flatMap((one) => one.latencies)
  const middle = (value: (one: Round) => number): number => median(rounds.map(value))
  return {
    rate: middle(({ rate }) => rate),
    p50: percentile(latencies, 50),
    p99: percentile(latencies, 99),
    instances: middle(({ cpuMs }) => cpuMs.instances),
    haproxy: middle(({ cpuMs }) => cpuMs.haproxy),
    redis: middle(({ cpuMs }) => cpuMs.redis),
    clientLoad: middle((one) => one.clientLoad),
  }
}

function printOnce(running: readonly Running[]): void {
  console.log('\nAt the end')
  console.table(
    Object.fromEntries(
      running.map(({ name, entry, spread }) => [
        name,
        {
          'MB/instance': round(median(entry.instances.map((instance) => instance.residentMb()))),
          'HAProxy MB': round(entry.haproxy?.residentMb() ?? 0),
          'Redis MB': round(entry.redis.residentMb()),
          'sessions by instance': spread.join(' '),
        },
      ]),
    ),
  )
}
