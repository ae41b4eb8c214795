/**
 * What does a session, and an open stream, cost when nobody uses it? A fleet of three instances over
 * one Redis: opens 10,000 sessions, waits until they count as idle, then follows 2,000 of them.
 *
 *   npm run bench:memory [-- --sessions 10000 --streams 2000]
 */
import { request as httpRequest, type IncomingMessage } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { createClient } from '@redis/client'
import { requireProgram } from '../haproxy-compat/programs.ts'
import { QUIET_SWEEPS } from '../mcp/session/held-sessions.ts'
import { parseFlags } from './flags.ts'
import { closeConnections, openSession } from './load.ts'
import {
  INSTANCE,
  mcpUrl,
  redisUrl,
  startInstance,
  startRedis,
  stopStacks,
  type Started,
} from './stack.ts'

const { sessions: SESSIONS, streams: STREAMS } = parseFlags({ sessions: 10_000, streams: 2000 })
const WARM_UP = 6000
const WARM_UP_STREAMS = 150
const IDLE_SECONDS = 2
const CONNECTIONS = 16

requireProgram('redis-server')
try {
  const redis = await startRedis(['--save', '', '--appendonly', 'no'])
  const options = {
    program: INSTANCE,
    redis,
    env: {
      LIVE_IDLE_SECONDS: String(IDLE_SECONDS),
      // All come from one address.
      MAX_SESSIONS_PER_CALLER: '1000000',
      SESSIONS_PER_MINUTE: '1000000',
    },
  }
  const instances: Started[] = []
  for (const number of [1, 2, 3]) instances.push(await startInstance(number, options))
  // An instance at work: what its heap needs to breathe is no idle session's, and its code no stream's.
  const first = await open(instances, WARM_UP)
  for (const socket of await follow(first.slice(0, WARM_UP_STREAMS))) socket.destroy()
  const before = await idleFootprint(instances, redis)
  const sessions = await open(instances, SESSIONS)
  const after = await idleFootprint(instances, redis)
  const sockets = await follow(sessions.slice(0, STREAMS))
  const streaming = await idleFootprint(instances, redis)
  for (const socket of sockets) socket.destroy()
  print(before, after, streaming)
} finally {
  closeConnections()
  await stopStacks()
}

interface Footprint {
  /** Resident, of each instance. */
  readonly mb: readonly number[]
  readonly redisBytes: number
}

/** What all that is unused has left behind. */
async function idleFootprint(instances: readonly Started[], redis: Started): Promise<Footprint> {
  const mb = await steady(() => instances.map((instance) => instance.residentMb()))
  const client = await createClient({ url: redisUrl(redis) }).connect()
  const [, used] = /used_memory:(\d+)/.exec(await client.info('memory')) ?? []
  client.destroy()
  return { mb, redisBytes: Number(used) }
}

/**
 * Asks until each value has stayed within a hundredth for longer than it takes an instance to let go
 * of what is unused, and to collect it: it looks each `LIVE_IDLE_SECONDS`, and the second look is
 * sure to find all of it, and those after that nothing.
 */
async function steady(ask: () => readonly number[]): Promise<readonly number[]> {
  for (let known = ask(), since = performance.now(); ; await sleep(500)) {
    const values = ask()
    if (values.some((value, index) => Math.abs(value / (known[index] ?? 0) - 1) > 0.01)) {
      known = values
      since = performance.now()
    }
    if (performance.now() - since > IDLE_SECONDS * (QUIET_SWEEPS + 2.5) * 1000) return values
  }
}

function print(before: Footprint, after: Footprint, streaming: Footprint): void {
  const perSession = (after.redisBytes - before.redisBytes) / SESSIONS
  console.log(`${SESSIONS} idle sessions: ${Math.round(perSession)} bytes of Redis each`)
  const growth = (from: Footprint, to: Footprint): number[] =>
    to.mb.map((mb, index) => mb - (from.mb[index] ?? 0))
  const megabytes = growth(before, after).map((mb) => mb.toFixed(1))
  console.log(`Growth of each instance: ${megabytes.join(', ')} MB`)
  const all = growth(after, streaming).reduce((sum, mb) => sum + mb, 0)
  console.log(`${STREAMS} open streams: ${((all * 1000) / STREAMS).toFixed(1)} kB each`)
}

interface Session {
  readonly id: string
  readonly url: URL
}

/** So many sessions, of all instances in turn. */
async function open(instances: readonly Started[], count: number): Promise<readonly Session[]> {
  const opened: Session[] = []
  const urls = Array.from({ length: count }, (_, n) => instances[n % instances.length])
    .filter((instance) => instance !== undefined)
    .map(mcpUrl)
  await Promise.all(
    Array.from({ length: CONNECTIONS }, async () => {
      for (let url = urls.pop(); url !== undefined; url = urls.pop()) {
        opened.push({ id: await openSession(url), url })
      }
    }),
  )
  return opened
}

/** Opens the GET stream of each session, on a connection of its own. */
function follow(sessions: readonly Session[]): Promise<IncomingMessage[]> {
  return Promise.all(
    sessions.map(({ id, url }) => {
      const headers = { accept: 'text/event-stream', 'mcp-session-id': id }
      const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>()
      const request = httpRequest(url, { agent: false, headers }, (response) => {
        response.once('data', () => resolve(response))
      })
      request.once('error', reject).end()
      return promise
    }),
  )
}
