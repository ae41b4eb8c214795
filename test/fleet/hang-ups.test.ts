/** Clients of 2026-07-28 that hang up on one instance, and on HAProxy. */
import { createClient, type RedisClientType } from '@redis/client'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { hangUpOnAll, hangUpOnAnalyses, KINDS } from '../failover/hang-ups.ts'
import { overSockets, type Send } from '../failover/sockets.ts'
import { listenTo, summaryUri } from '../failover/summaries.ts'
import { startFleet, type Fleet } from '../support/fleet.ts'
import { until } from '../support/mcp.ts'
import { startNode, type NodeInstance } from '../support/node.ts'
import { hearersOf, startRedis, type RedisServer } from '../support/redis.ts'
import { ask, openHandle, runTool } from '../support/stateless.ts'

// What is still running by then runs on: each call would take half a minute.
const SOON_MS = 5000
const CAPPED = { MAX_CALLS_PER_SESSION: '64' }

describe('a client that hangs up on an instance', () => {
  let server: RedisServer
  let redis: RedisClientType

  beforeAll(async () => {
    server = await startRedis()
    redis = await connected()
  })
  afterAll(async () => {
    redis.destroy()
    await server.stop()
  })

  it('ends its call, at whatever stage, and nothing is half applied', async () => {
    const { fetch } = await instance()
    const { tried, faults } = await hangUpOnAnalyses(fetch)
    console.log(`${tried} calls hung up on at one instance, ${faults.length} of them took effect`)
    expect(faults).toEqual([])
  })

  it.each(KINDS)('leaves nothing behind that runs, nor asks the store: %s', async (kind) => {
    const { fetch, kill } = await instance()
    const { session, ms } = await hangUpOnAll(fetch, kind)
    const monitor = await connected()
    const asked: string[] = []
    await monitor.monitor((line) => asked.push(line))
    // Of two seconds' length: by then each of them would have looked at its session four times.
    const other = await openHandle(fetch)
    await runTool(fetch, 'watch_counter', { session: other, duration_seconds: 2 })
    monitor.destroy()
    expect(asked.filter((line) => line.includes(other)).length).toBeGreaterThan(4)
    const isOfBoard = (line: string): boolean => line.includes('mcp:{board}')
    expect(asked.filter((line) => line.includes(session) && !isOfBoard(line))).toEqual([])
    // It waits for what runs.
    const began = performance.now()
    expect(await kill('SIGTERM')).toBe(0)
    const stopMs = Math.round(performance.now() - began)
    console.log(`64 calls answered as ${kind} ended ${ms} ms later, their instance in ${stopMs} ms`)
    expect(ms + stopMs).toBeLessThan(SOON_MS)
  })

  it('is told of no changes any more, at whatever moment it went', async () => {
    const { fetch } = await instance()
    const sessions = await Promise.all(Array.from({ length: 25 }, () => openHandle(fetch)))
    const ears = await Promise.all(sessions.map((one) => listenTo(fetch, [summaryUri(one)])))
    await until(
      () => heardOf(sessions),
      (count) => count === sessions.length,
    )
    const early = sessions.map(async (session, index) => {
      const stop = new AbortController()
      const notifications = { resourceSubscriptions: [summaryUri(session)] }
      const asked = fetch(ask('subscriptions/listen', { notifications }), stop.signal)
      // Some before they are answered, and some behind it.
      if (index % 2 === 0) await asked
      stop.abort()
      await asked.catch(() => undefined)
    })
    await Promise.all(early)
    await Promise.all(ears.map(({ hangUp }) => hangUp()))
    await until(
      () => heardOf(sessions),
      (count) => count === 0,
    )
  })

  /** How many of the sessions somebody listens to. */
  async function heardOf(sessions: readonly string[]): Promise<number> {
    const counts = await Promise.all(sessions.map((session) => hearersOf(redis, session)))
    return counts.filter((count) => count === 1).length
  }

  async function instance(): Promise<Omit<NodeInstance, 'fetch'> & { fetch: Send }> {
    const started = await startNode({ REDIS_URL: server.url, ...CAPPED })
    onTestFinished(async () => void (await started.kill('SIGKILL')))
    return { ...started, fetch: overSockets(`${started.url}/mcp`, 'closes') }
  }

  async function connected(): Promise<RedisClientType> {
    const client: RedisClientType = createClient({ url: server.url })
    await client.connect()
    return client
  }
})

describe('a client that hangs up on HAProxy', () => {
  let fleet: Fleet

  beforeAll(async () => {
    fleet = await startFleet(CAPPED)
  })
  afterAll(() => fleet.stop())

  it('ends its call, at whatever stage, and nothing is half applied', async () => {
    const { tried, faults } = await hangUpOnAnalyses(overSockets(fleet.url, 'closes'))
    console.log(`${tried} calls hung up on at HAProxy, ${faults.length} of them took effect`)
    expect(faults).toEqual([])
  })

  it.each(KINDS)('leaves nothing behind that runs: %s', async (kind) => {
    const { ms } = await hangUpOnAll(overSockets(fleet.url, 'closes'), kind)
    console.log(`64 calls answered as ${kind} ended ${ms} ms after HAProxy's clients had gone`)
    expect(ms).toBeLessThan(SOON_MS)
  })
})
