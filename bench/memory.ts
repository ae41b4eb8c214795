/**
 * What does a session, and an open stream, cost when nobody uses it? A fleet of three instances over
 * one Redis: opens 10,000 sessions, waits until they count as idle, then follows 2,000 of them.
 *
 *   npm run bench:memory [-- --sessions 10000 --streams 2000]
 */
import { readFileSync } from 'node:fs'
import { Agent, request as httpRequest, type IncomingMessage } from 'node:http'
import { parseArgs } from 'node:util'
import { createClient } from '@redis/client'
import { startNode, type NodeInstance } from '../test/support/node.ts'
import { startRedis } from '../test/support/redis.ts'

const { values: flags } = parseArgs({
  options: {
    sessions: { type: 'string', default: '10000' },
    streams: { type: 'string', default: '2000' },
  },
})
const SESSIONS = Number(flags.sessions)
const STREAMS = Number(flags.streams)
const WARM_UP = 6000
const IDLE_SECONDS = 5
const CONNECTIONS = 16

const INITIALIZE = {
  jsonrpc: '2.0',
  id: 0,
  method: 'initialize',
  params: {
    protocolVersion: '2025-11-25',
    capabilities: {},
    clientInfo: { name: 'bench', version: '0' },
  },
}
const INITIALIZED = { jsonrpc: '2.0', method: 'notifications/initialized' }

const redis = await startRedis()
const client = createClient({ url: redis.url })
await client.connect()
const instances: NodeInstance[] = []
const agent = new Agent({ keepAlive: true, maxSockets: CONNECTIONS })

try {
  for (const number of [1, 2, 3]) {
    const env = {
      REDIS_URL: redis.url,
      SESSION_SECRET: 'of this bench alone',
      INSTANCE_ID: `mcp-server-${number}`,
      LIVE_IDLE_SECONDS: String(IDLE_SECONDS),
    }
    instances.push(await startNode(env))
  }
  // An instance at work: what its heap needs to breathe is no idle session's.
  await open(WARM_UP)
  await idle()
  const before = await footprint()
  const sessions = await open(SESSIONS)
  await idle()
  const after = await footprint()
  const sockets = await follow(sessions.slice(0, STREAMS))
  await idle()
  const streaming = await footprint()
  for (const socket of sockets) socket.destroy()
  print(before, after, streaming)
} finally {
  agent.destroy()
  client.destroy()
  for (const instance of instances) await instance.kill('SIGKILL')
  await redis.stop()
}

interface Footprint {
  /** Of each instance, in bytes. */
  readonly rss: readonly number[]
  readonly redis: number
}

async function footprint(): Promise<Footprint> {
  const rss = instances.map(({ pid }) => {
    const [, kilobytes] = /VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? []
    return Number(kilobytes) * 1024
  })
  const [, used] = /used_memory:(\d+)/.exec(await client.info('memory')) ?? []
  return { rss, redis: Number(used) }
}

function print(before: Footprint, after: Footprint, streaming: Footprint): void {
  const perSession = (after.redis - before.redis) / SESSIONS
  console.log(`${SESSIONS} idle sessions: ${Math.round(perSession)} bytes of Redis each`)
  const growth = (from: Footprint, to: Footprint): number[] =>
    to.rss.map((bytes, index) => bytes - (from.rss[index] ?? 0))
  const megabytes = growth(before, after).map((bytes) => (bytes / 1e6).toFixed(1))
  console.log(`Growth of each instance: ${megabytes.join(', ')} MB`)
  const all = growth(after, streaming).reduce((sum, bytes) => sum + bytes, 0)
  console.log(`${STREAMS} open streams: ${(all / STREAMS / 1000).toFixed(1)} kB each`)
}

async function open(count: number): Promise<{ id: string; instance: NodeInstance }[]> {
  const opened: { id: string; instance: NodeInstance }[] = []
  let next = 0
  await Promise.all(
    Array.from({ length: CONNECTIONS }, async () => {
      while (next < count) {
        const instance = instances[next++ % instances.length]
        if (instance === undefined) continue
        const { headers } = await post(instance, INITIALIZE)
        const id = String(headers['mcp-session-id'])
        await post(instance, INITIALIZED, id)
        opened.push({ id, instance })
      }
    }),
  )
  return opened
}

async function post(
  { url }: NodeInstance,
  message: object,
  session?: string,
): Promise<IncomingMessage> {
  const headers = {
    'content-type': 'application/json',
    accept: 'application/json, text/event-stream',
    ...(session !== undefined && { 'mcp-session-id': session }),
  }
  const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>()
  const request = httpRequest(`${url}/mcp`, { method: 'POST', agent, headers }, (response) => {
    response.resume().once('end', () => resolve(response))
  })
  request.once('error', reject).end(JSON.stringify(message))
  return promise
}

/** Opens the GET stream of each session, on a connection of its own. */
function follow(
  sessions: readonly { id: string; instance: NodeInstance }[],
): Promise<IncomingMessage[]> {
  return Promise.all(
    sessions.map(({ id, instance }) => {
      const headers = { accept: 'text/event-stream', 'mcp-session-id': id }
      const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>()
      const request = httpRequest(`${instance.url}/mcp`, { agent: false, headers }, (response) => {
        response.once('data', () => resolve(response))
      })
      request.once('error', reject).end()
      return promise
    }),
  )
}

/** Until everything unused was let go, and V8 has had its time to give memory back. */
function idle(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, IDLE_SECONDS * 3000))
}
