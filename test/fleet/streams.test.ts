/** Calls that outlive their instance, and news between instances: whole instances over one Redis. */
import { once } from 'node:events'
import { connect } from 'node:net'
import { createClient, type RedisClientType } from '@redis/client'
import { afterAll, afterEach, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { RedisPeers, type RedisCommands } from '../../haproxy-compat/redis-peers.ts'
import { createRedisStore } from '../../haproxy-compat/redis-store.ts'
import { systemClock } from '../../mcp/session/clock.ts'
import type { SessionId, StreamId } from '../../mcp/session/ids.ts'
import type { Entry, SessionStore } from '../../mcp/session/store.ts'
import { startBus } from '../support/bus.ts'
import {
  analysisTold,
  differences,
  get,
  resuming,
  speakingCall,
  toldBy,
  type Told,
} from '../support/client.ts'
import { createLocalApp, type LocalApp } from '../support/local-app.ts'
import {
  BASE,
  callTool,
  collect,
  openSession,
  readEvents,
  rpc,
  send,
  toolCall,
  until,
  type Fetch,
  type RpcReply,
  type SseEvent,
} from '../support/mcp.ts'
import { startNode, type NodeInstance } from '../support/node.ts'
import { percentile } from '../support/percentile.ts'
import { hearersOf, startRedis, type RedisServer } from '../support/redis.ts'

const SECRET = 'the same for all of them'
const KEPT = {
  ttlMs: 1_800_000,
  replyRetentionMs: 300_000,
  maxRepliesPerSession: 1024,
  now: Date.now,
}
const ANALYSIS = { num_items: 3 }
const refuse = (): Promise<never> => Promise.reject(new Error('Cannot reach Redis'))

let server: RedisServer
let redis: RedisClientType
let store: SessionStore

beforeAll(async () => {
  server = await startRedis()
  redis = await connected()
  store = createRedisStore(redis, KEPT)
})
afterEach(() => redis.flushAll())
afterAll(async () => {
  redis.destroy()
  await server.stop()
})

describe('a call', () => {
  it('is finished by others when its instance is killed and its client never comes back', async () => {
    const [a] = await instances(2)
    const { session, stream } = await begun(a, 3)
    await a.kill('SIGKILL')
    const killed = performance.now()
    await until(() => log(session, stream), hasEnded)
    const tookMs = performance.now() - killed
    console.log(`Finished ${Math.round(tookMs)} ms after the kill`)
    expect(tookMs).toBeLessThan(10_000)
    await expectWhole(session, stream, 3)
  })

  it('can be resumed by whoever has heard anything of it', async () => {
    const [a] = await instances(1)
    const session = await openSession(a.fetch)
    for (let id = 1; id <= 20; id++) {
      const request = speakingCall(session, 'analyze_data', { num_items: 0 }, id)
      // Were they sent apart, a death between the two would leave a stream with nothing to ask for.
      expect(await firstPacket(a, request)).toMatch(
        /^HTTP\/1.1 200 OK\r\n[^]*\r\n\r\n[^]*\nid: \S+\n/,
      )
    }
  })

  it('is followed live on another instance than it runs on', async () => {
    const [a, b] = await instances(2)
    const session = (await openSession(a.fetch)) as SessionId
    const first = readEvents(await a.fetch(speakingCall(session, 'analyze_data', ANALYSIS)))
    const { value: priming } = await first.next()
    const seen = [await nextOf(first), await nextOf(first)]

    const rest = readEvents(await b.fetch(get(session, seen.at(-1)?.id)))
    await nextOf(rest)
    // Who followed it before is told to stay away: two would take it from each other.
    const left = await collect(first)
    expect(left.at(-1)).toEqual({ id: '', data: '', retry: '60000' })
    const all = [...seen, ...left.slice(0, -1), ...(await collect(rest))]
    const stream = streamOf(priming as SseEvent)
    // B tells it all behind what it was asked for, whatever A has sent meanwhile.
    const events = [...new Map(all.map((event) => [event.id, event])).values()]
    await expectEvents(events, session, stream, 3)
    expect(replyIn(events)?.result?.structuredContent).toMatchObject({ instance: 'instance-1' })
    expect((await log(session, stream)).some(({ kind }) => kind === 'taken')).toBe(false)
  })

  it('is followed also where nobody can be asked whether somebody runs it', async () => {
    const [a] = await instances(1)
    const { session, stream, priming } = await begun(a, 1)
    const app = await racer('cut off', { evalSha: refuse, eval: refuse })
    const events = await collect(readEvents(await app.fetch(get(session, priming.id))))
    await expectEvents(events.slice(1), session, stream, 1)
  })

  it('is followed on, or resumed, on another instance when its own is killed', async () => {
    const [a, b] = await instances(2)
    const session = (await openSession(a.fetch)) as SessionId
    const beginning = async (id: number): Promise<{ stream: StreamId; seen: SseEvent[] }> => {
      const call = speakingCall(session, 'analyze_data', ANALYSIS, id)
      const events = readEvents(await a.fetch(call))
      const stream = streamOf(await nextOf(events))
      return { stream, seen: [await nextOf(events), await nextOf(events)] }
    }
    const [followed, resumed] = await Promise.all([beginning(1), beginning(2)])

    const live = readEvents(await b.fetch(get(session, followed.seen.at(-1)?.id)))
    await nextOf(live)
    followed.seen.push(await nextOf(live))
    await a.kill('SIGKILL')
    const broken = await b.fetch(get(session, resumed.seen.at(-1)?.id))
    followed.seen.push(...(await collect(live)))
    resumed.seen.push(...(await collect(readEvents(broken))).slice(1))

    for (const { seen, stream } of [followed, resumed]) {
      await expectEvents(seen, session, stream, 3)
      expect(replyIn(seen)?.result?.structuredContent).toMatchObject({ instance: 'instance-2' })
    }
    expect((await store.load(session))?.record.version).toBe(2)
  })

  it('is handed over when its instance is told to stop and has no time for it', async () => {
    const [a, b] = await instances(2, { STOP_SECONDS: '0.2' })
    const { session, stream, priming } = await begun(a, 3)
    const rest = collect(resuming(b.fetch, get(session, priming.id)))
    expect(await a.kill('SIGTERM')).toBe(0)
    const stopped = performance.now()
    await until(
      () => log(session, stream),
      (entries) => entries.some(({ kind }) => kind === 'taken'),
    )
    const tookMs = performance.now() - stopped
    console.log(`Handed over ${Math.round(tookMs)} ms after the instance has stopped`)
    // As long as a lease that is not given up lasts at least.
    expect(tookMs).toBeLessThan(300)
    await expectEvents(await rest, session, stream, 3)
    await expectWhole(session, stream, 3)
  })

  it('is not taken over by an instance that is stopping itself', async () => {
    const [a, b] = await instances(2, { DRAIN_SECONDS: '1', STOP_SECONDS: '1' })
    const [own, orphan] = [await begun(a, 10), await begun(b, 3)]
    const ready = async (): Promise<number> => {
      const response = await a.fetch(new Request(`${BASE}/ready`))
      await response.text()
      return response.status
    }
    const stopped = a.kill('SIGTERM')
    await until(ready, (status) => status === 503)
    await b.kill('SIGKILL')
    expect(await stopped).toBe(0)
    const left = await log(orphan.session, orphan.stream)
    expect(left.some(({ kind }) => kind === 'taken')).toBe(false)
    await instances(1)
    await until(() => log(orphan.session, orphan.stream), hasEnded)
    await until(() => log(own.session, own.stream), hasEnded)
    await expectWhole(orphan.session, orphan.stream, 3)
    await expectWhole(own.session, own.stream, 10)
  })

  it('ends with its session, which is ended elsewhere, and does nothing after that', async () => {
    const [a, b] = await instances(2)
    const session = (await openSession(a.fetch)) as SessionId
    const stream = readEvents(
      await a.fetch(speakingCall(session, 'analyze_data', { num_items: 1 })),
    )
    await nextOf(stream)
    const own = readEvents(await a.fetch(get(session)))
    await nextOf(own)
    const ended = await b.fetch(
      new Request(`${BASE}/mcp`, { method: 'DELETE', headers: { 'mcp-session-id': session } }),
    )
    expect(ended.status).toBe(200)
    expect(replyIn(await collect(stream))).toBeUndefined()
    expect(await collect(own)).toEqual([])
    expect((await send(a.fetch, session, toolCall('get_counter'))).status).toBe(404)
    // One that began later has done all of it, so it would have as well.
    await callTool(a.fetch, await openSession(a.fetch), 'analyze_data', { num_items: 1 })
    expect(await redis.keys(`mcp:{${session}}*`)).toEqual([])
    await nothingRuns()
  })

  it('is cancelled from another instance, with all of its effect or none', async () => {
    const [a, b] = await instances(2)
    const told = analysisTold(1).length
    const outcomes = await Promise.all(
      Array.from({ length: told }, async (_, after) => {
        const session = (await openSession(a.fetch)) as SessionId
        const request = speakingCall(session, 'analyze_data', { num_items: 1 }, 'mine')
        const seen: SseEvent[] = []
        for await (const event of resuming(a.fetch, request)) {
          seen.push(event)
          if (seen.length === after + 1) await cancel(b.fetch, session, 'mine')
        }
        return { after, session, reply: replyIn(seen), seen }
      }),
    )
    const versions: number[] = []
    for (const { after, session, reply, seen } of outcomes) {
      const { version = -1, state } = (await store.load(session))?.record ?? {}
      versions.push(version)
      expect(JSON.stringify(state)).toBe(
        version === 1 ? '{"analysis_result":{"total_score":1.5,"items_processed":1}}' : '{}',
      )
      expect(seen.length).toBeLessThanOrEqual(told + 1)
      // One that has ended meanwhile can't be cancelled, and the last thing it says is behind its effect.
      if (reply?.error === undefined || after === told - 1) expect(version).toBe(1)
      else expect(reply.error).toMatchObject({ code: -32800 })
    }
    expect(versions).toContain(0)
    await nothingRuns()
  })

  it('is not cancelled by a client that only hangs up', async () => {
    const [a] = await instances(1)
    const { session, stream } = await begun(a, 1)
    await until(() => log(session, stream), hasEnded)
    await expectWhole(session, stream, 1)
  })

  it('is taken over once when ten instances race for it, and its old holder writes nothing', async () => {
    const [old] = await instances(1)
    const orphans = await Promise.all(
      Array.from({ length: 5 }, async () => {
        const session = (await openSession(old.fetch)) as SessionId
        const response = await old.fetch(speakingCall(session, 'analyze_data', ANALYSIS))
        const events = readEvents(response)
        const priming = await nextOf(events)
        return { session, stream: streamOf(priming), events }
      }),
    )
    const racers = await Promise.all(Array.from({ length: 10 }, (_, n) => racer(`racer-${n}`)))
    process.kill(old.pid, 'SIGSTOP')
    const logs = (): Promise<(readonly Entry[])[]> =>
      Promise.all(orphans.map(({ session, stream }) => log(session, stream)))
    const before = await until(logs, (all) => all.every(hasEnded))
    process.kill(old.pid, 'SIGCONT')

    // It tells the client that has waited all the time what the others have done.
    for (const { session, stream, events } of orphans) {
      await expectEvents(await collect(events), session, stream, 3)
      await expectWhole(session, stream, 3)
    }
    await nothingRuns()
    const after = await logs()
    expect(after).toEqual(before)
    const taken = after.flat().filter(({ kind }) => kind === 'taken')
    expect(taken).toHaveLength(orphans.length)
    const told = racers.flatMap(({ events }) => events)
    expect(told.filter(({ event }) => event === 'call_taken_over')).toHaveLength(orphans.length)
  })
})

describe('a notification', () => {
  it('that another instance raises is there in less than 100 ms', async () => {
    const [a, b] = await instances(2)
    const { session, stream } = await subscribed(a)
    const tookMs: number[] = []
    for (let n = 0; n < 200; n++) {
      const raised = performance.now()
      const [event] = await Promise.all([
        nextOf(stream),
        callTool(b.fetch, session, 'increment_counter'),
      ])
      tookMs.push(performance.now() - raised)
      expect(event.data).toContain(`resource://session/${session}/summary`)
    }
    const [p50, p99, max] = [50, 99, 100].map((rank) => percentile(tookMs, rank).toFixed(1))
    console.log(`${tookMs.length} notifications: p50 ${p50} ms, p99 ${p99} ms, max ${max} ms`)
    expect(Number(p99)).toBeLessThan(100)
  })

  it('that was raised while the bus was cut is told once it is back', async () => {
    const bus = await startBus(server.url)
    onTestFinished(() => bus.stop())
    const [[a], [b]] = await Promise.all([
      instances(1, { REDIS_URL: bus.url, INSTANCE_ID: 'behind the bus' }),
      instances(1),
    ])
    const before = await subscribed(a)
    await until(
      () => hearersOf(redis, before.session),
      (count) => count === 1,
    )
    bus.cut()
    const meanwhile = await subscribed(a)
    const both = [before, meanwhile]
    const raise = (): Promise<unknown> =>
      Promise.all(both.map(({ session }) => callTool(b.fetch, session, 'increment_counter')))
    const cut = performance.now()
    // What is waited for is a number of attempts to listen, each of which fails.
    while (bus.refused() < 15 || performance.now() - cut < 2000) await raise()
    bus.mend()
    const raised = await counterOf(b, before.session)
    for (const { session, stream, name } of both) {
      const events: SseEvent[] = []
      while (events.length < raised) events.push(await nextOf(stream))
      const stored = await log(session, name)
      expect(events.map(({ id }) => id)).toEqual(stored.map((_, at) => `${name}.${at + 1}`))
    }
    // That was looked up. What is raised from now on is news.
    await raise()
    for (const { stream, name } of both) {
      expect((await nextOf(stream)).id).toBe(`${name}.${raised + 1}`)
    }
    console.log(`${raised} notifications in ${bus.refused()} failed attempts to listen`)
  })

  it('is raised by each instance once any of them was told that it is wanted', async () => {
    const [a, b] = await instances(2)
    const session = (await openSession(a.fetch)) as SessionId
    await callTool(b.fetch, session, 'get_counter')
    const stream = readEvents(await a.fetch(get(session)))
    await nextOf(stream)
    await subscribe(b.fetch, session)
    for (const { fetch } of [a, b]) {
      await callTool(fetch, session, 'increment_counter')
      expect((await nextOf(stream)).data).toContain('notifications/resources/updated')
    }
  })

  it('goes to the newest of the streams that wait for it, on whatever instance', async () => {
    const [a, b] = await instances(2)
    const old = await subscribed(a)
    const stream = readEvents(await b.fetch(get(old.session)))
    await nextOf(stream)
    expect(await collect(old.stream)).toEqual([{ id: '', data: '', retry: '60000' }])
    for (const { fetch } of [a, b]) {
      await callTool(fetch, old.session, 'increment_counter')
      expect((await nextOf(stream)).data).toContain('notifications/resources/updated')
    }
  })
})

describe('what Redis keeps', () => {
  it('is nothing of a session that has expired', async () => {
    const [a] = await instances(1, { SESSION_TTL_SECONDS: '1' })
    const { session, stream } = await begun(a, 1)
    await until(() => log(session, stream), hasEnded)
    await nothingRuns()
    expect(await redis.keys(`mcp:{${session}}*`)).toHaveLength(2)
    await until(
      () => redis.keys(`mcp:{${session}}*`),
      (keys) => keys.length === 0,
    )
  })

  it('is no lease on a call whose session has expired with nobody there', async () => {
    const [a] = await instances(1, { SESSION_TTL_SECONDS: '1' })
    const { session } = await begun(a, 3)
    await a.kill('SIGKILL')
    await until(
      () => redis.keys(`mcp:{${session}}*`),
      (keys) => keys.length === 0,
    )
    expect(await redis.zCard('mcp:leases')).toBe(1)
    await instances(1)
    await nothingRuns()
  })
})

/** Instances that live until the test ends. */
async function instances(
  count: number,
  env: Record<string, string> = {},
): Promise<[NodeInstance, NodeInstance, ...NodeInstance[]]> {
  const all = await Promise.all(
    Array.from({ length: count }, (_, at) =>
      startNode({
        REDIS_URL: server.url,
        INSTANCE_ID: `instance-${at + 1}`,
        SESSION_SECRET: SECRET,
        ...env,
      }),
    ),
  )
  onTestFinished(async () => void (await Promise.all(all.map((one) => one.kill('SIGKILL')))))
  return all as [NodeInstance, NodeInstance, ...NodeInstance[]]
}

/** An instance in this process. */
async function racer(instance: string, asking: Partial<RedisCommands> = {}): Promise<LocalApp> {
  const clients = await Promise.all([connected(), connected(), connected()])
  const [commands, leases, subscriber] = clients
  onTestFinished(() => {
    for (const client of clients) client.destroy()
  })
  const peers = new RedisPeers(Object.assign(leases, asking), subscriber, systemClock)
  onTestFinished(() => peers.stop())
  const app = createLocalApp({ store: createRedisStore(commands, KEPT), peers, instance })
  peers.start(
    (call) => app.router.takeOver(call),
    () => true,
  )
  return app
}

async function connected(): Promise<RedisClientType> {
  const client: RedisClientType = createClient({ url: server.url })
  // A command that fails of it says so itself.
  client.on('error', () => undefined)
  await client.connect()
  return client
}

/** What comes first on the wire. */
async function firstPacket({ url }: NodeInstance, request: Request): Promise<string> {
  const socket = connect(Number(new URL(url).port), '127.0.0.1')
  const body = await request.text()
  const headers = Array.from(request.headers, ([name, value]) => `${name}: ${value}\r\n`).join('')
  socket.write(`POST /mcp HTTP/1.1\r\n${headers}content-length: ${body.length}\r\n\r\n${body}`)
  const [packet] = (await once(socket, 'data')) as [Buffer]
  socket.destroy()
  return packet.toString()
}

interface Begun {
  readonly session: SessionId
  readonly stream: StreamId
  readonly priming: SseEvent
}

/** An analysis on a session of its own, whose client is gone as soon as it has a stream. */
async function begun({ fetch }: NodeInstance, items: number): Promise<Begun> {
  const session = (await openSession(fetch)) as SessionId
  const response = await fetch(speakingCall(session, 'analyze_data', { num_items: items }))
  for await (const priming of readEvents(response)) {
    return { session, stream: streamOf(priming), priming }
  }
  throw new Error('No stream')
}

interface Subscribed {
  readonly session: SessionId
  /** Its standalone stream. */
  readonly name: StreamId
  readonly stream: AsyncGenerator<SseEvent>
}

/** A session that wants to know of its changes, and whose stream is at the instance. */
async function subscribed({ fetch }: NodeInstance): Promise<Subscribed> {
  const session = (await openSession(fetch)) as SessionId
  await subscribe(fetch, session)
  const stream = readEvents(await fetch(get(session)))
  return { session, name: streamOf(await nextOf(stream)), stream }
}

async function subscribe(fetch: Fetch, session: SessionId): Promise<void> {
  const params = { uri: `resource://session/${session}/summary` }
  const method = 'resources/subscribe'
  expect(await rpc(fetch, session, { jsonrpc: '2.0', id: 1, method, params })).toHaveProperty(
    'result',
  )
}

async function cancel(fetch: Fetch, session: string, requestId: string): Promise<void> {
  const method = 'notifications/cancelled'
  const sent = await send(fetch, session, { jsonrpc: '2.0', method, params: { requestId } })
  expect(sent.status).toBe(202)
}

async function counterOf({ fetch }: NodeInstance, session: string): Promise<number> {
  return Number((await callTool(fetch, session, 'get_counter'))['counter'])
}

function streamOf({ id }: SseEvent): StreamId {
  return id.split('.')[0] as StreamId
}

async function nextOf(events: AsyncGenerator<SseEvent>): Promise<SseEvent> {
  const next = await events.next()
  if (next.done === true) throw new Error('The stream has ended')
  return next.value
}

async function log(session: string, stream: StreamId): Promise<readonly Entry[]> {
  return (await store.entries(session as SessionId, stream, 0))?.entries ?? []
}

function hasEnded(entries: readonly Entry[]): boolean {
  return entries.at(-1)?.kind === 'end'
}

function replyIn(events: readonly SseEvent[]): RpcReply | undefined {
  const messages = events.filter(({ data }) => data !== '').map(({ data }) => JSON.parse(data))
  const replies = messages.filter((message) => !('method' in message))
  expect(replies.length).toBeLessThan(2)
  return replies[0]
}

/** These are all events of an analysis, each once and in order, and its reply. */
async function expectEvents(
  events: readonly SseEvent[],
  session: string,
  stream: StreamId,
  items: number,
): Promise<void> {
  const messages = events.map(({ data }) => JSON.parse(data) as Told & RpcReply)
  expect(differences(messages.slice(0, -1).map(toldBy), analysisTold(items))).toEqual([])
  expect(messages.at(-1)?.result?.structuredContent).toMatchObject({ items_processed: items })
  const stored = (await log(session, stream)).flatMap(({ kind }, at) =>
    kind === 'message' || kind === 'end' ? `${stream}.${at + 1}` : [],
  )
  expect(events.map(({ id }) => id)).toEqual(stored)
}

/** An analysis has had its effect once, and has said all that it has to say once. */
async function expectWhole(session: string, stream: StreamId, items: number): Promise<void> {
  const { version, state } = (await store.load(session as SessionId))?.record ?? {}
  expect(version).toBe(1)
  expect(state).toMatchObject({ analysis_result: { items_processed: items } })
  const entries = await log(session, stream)
  const told = entries.flatMap((entry) =>
    entry.kind === 'message' ? toldBy(entry.message as Told) : [],
  )
  expect(differences(told, analysisTold(items))).toEqual([])
  expect(entries.filter(({ kind }) => kind === 'end')).toHaveLength(1)
}

async function nothingRuns(): Promise<void> {
  await until(
    () => redis.zCard('mcp:leases'),
    (count) => count === 0,
  )
}
