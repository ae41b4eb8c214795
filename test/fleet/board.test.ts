import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { RedisClientType } from '@redis/client'
import { createBoard } from '../../haproxy-compat/board.ts'
import type { BoardStore, Report, SessionReport } from '../../haproxy-compat/board-store.ts'
import { createMemoryBoard } from '../../haproxy-compat/memory-board.ts'
import { createRedisBoard } from '../../haproxy-compat/redis-board.ts'
import type { SessionName } from '../../mcp/operator.ts'
import type { Principal, SessionId, StreamId } from '../../mcp/session/ids.ts'
import type { SessionRecord } from '../../mcp/session/store.ts'
import { until } from '../support/mcp.ts'
import { clientOf, startRedis, type RedisServer } from '../support/redis.ts'

const TTL_MS = 60_000
let server: RedisServer
let redis: RedisClientType

beforeAll(async () => {
  server = await startRedis()
  redis = await clientOf(server.url)
})
afterAll(async () => {
  redis.destroy()
  await server.stop()
})

const nameOf = (n: number) => `name-${n}` as SessionName
const idOf = (n: number) => `id-${n}-and-more` as SessionId

function used(n: number, usedAt: number, calls = 1): SessionReport {
  const shown = { principal: 'ann', client: 'test 0', revision: '2025-11-25' }
  const use = { id: idOf(n), ...shown, openedAt: usedAt, usedAt }
  return { name: nameOf(n), calls, streams: 0, running: 0, use }
}

function reportOf(instance: string, more: Partial<Report> = {}): Report {
  const run = 1
  const shown = {
    state: 'ready',
    startedAt: run,
    sessions: 0,
    streams: 0,
    running: 0,
    residentBytes: 1,
    load: 0.5,
    calls: 0,
    errors: 0,
    latencies: [],
    refusals: {},
  } as const
  return { instance, run, shown, sessions: [], ended: [], failovers: [], ...more }
}

describe.each([
  ['memory', async () => createMemoryBoard({ ttlMs: TTL_MS, now: Date.now })],
  [
    'Redis',
    async () => {
      await redis.flushAll()
      return createRedisBoard(redis, TTL_MS)
    },
  ],
])('the board in %s', (_kind, create: () => Promise<BoardStore>) => {
  it('has those used last first, counts their calls, and keeps their ids to itself', async () => {
    const board = await create()
    const now = Date.now()
    await board.report(reportOf('a', { sessions: [used(1, now - 30, 2), used(2, now - 20)] }))
    await board.report(reportOf('a', { sessions: [used(1, now - 10, 3)] }))
    const { sessions, total, instances, at } = await board.look()
    expect(sessions).toMatchObject([
      { name: 'name-1', calls: 5, openedAt: now - 30, usedAt: now - 10, holder: 'a' },
      { name: 'name-2', calls: 1 },
    ])
    expect(total).toBe(2)
    expect(instances).toMatchObject([{ name: 'a', state: 'ready', load: 0.5 }])
    expect(at - (instances[0]?.reportedAt ?? 0)).toBeLessThan(10_000)
    expect(await board.find(nameOf(2))).toBe(idOf(2))
    expect(await board.find(nameOf(3))).toBeUndefined()
  })

  it('has those used last first, in whatever order they are told', async () => {
    const board = await create()
    const now = Date.now()
    const order = [3, 1, 2]
    await board.report(reportOf('a', { sessions: order.map((n) => used(n, now + n)) }))
    const names = (await board.look()).sessions.map(({ name }) => name)
    expect(names).toEqual([3, 2, 1].map(nameOf))
  })

  it('forgets what has ended, what has expired, and what is too much', async () => {
    const board = await create()
    const now = Date.now()
    const many = Array.from({ length: 1010 }, (_, n) => used(n, now - 2000 + n))
    for (let n = 0; n < many.length; n += 500) {
      await board.report(reportOf('a', { sessions: many.slice(n, n + 500) }))
    }
    expect((await board.look()).total).toBe(1000)
    expect((await board.look()).sessions).toHaveLength(200)
    expect(await board.find(nameOf(0))).toBeUndefined()
    await board.report(reportOf('a', { ended: [nameOf(1009)] }))
    expect(await board.find(nameOf(1009))).toBeUndefined()

    const another = await create()
    await another.report(reportOf('a', { sessions: [used(1, now - TTL_MS - 1), used(2, now)] }))
    expect(await another.find(nameOf(1))).toBeUndefined()
    expect(await another.find(nameOf(2))).toBe(idOf(2))
  })

  it('takes in no use of a session that has ended', async () => {
    const board = await create()
    const now = Date.now()
    await board.report(reportOf('a', { sessions: [used(1, now)] }))
    await board.report(reportOf('a', { ended: [nameOf(1), nameOf(2)] }))
    await board.report(reportOf('b', { sessions: [used(1, now), used(2, now), used(3, now)] }))
    expect((await board.look()).sessions).toMatchObject([{ name: 'name-3' }])
  })

  it('remembers of the last thousand that they have ended', async () => {
    const board = await create()
    const names = Array.from({ length: 1001 }, (_, n) => nameOf(n))
    for (const name of names) await board.report(reportOf('a', { ended: [name] }))
    const now = Date.now()
    await board.report(reportOf('b', { sessions: [used(0, now), used(1000, now)] }))
    expect((await board.look()).sessions).toMatchObject([{ name: 'name-0' }])
  })

  it('shows what goes on in a session until that is over, and puts none up for this', async () => {
    const board = await create()
    const busy = { name: nameOf(1), calls: 0, streams: 2, running: 1 }
    await board.report(reportOf('a', { sessions: [busy] }))
    expect((await board.look()).total).toBe(0)
    await board.report(reportOf('a', { sessions: [used(1, Date.now())] }))
    await board.report(reportOf('a', { sessions: [busy] }))
    expect((await board.look()).sessions).toMatchObject([
      { calls: 1, busy: { a: { run: 1, streams: 2, running: 1 } } },
    ])
  })

  it('says who is drained, until they are not, and nothing of instances that are not there', async () => {
    const board = await create()
    expect(await board.drain('a', true)).toBe(false)
    expect(await board.report(reportOf('a'))).toEqual({ drained: false })
    expect(await board.drain('a', true)).toBe(true)
    expect(await board.report(reportOf('a'))).toEqual({ drained: true })
    expect(await board.drain('a', false)).toBe(true)
    expect(await board.report(reportOf('a'))).toEqual({ drained: false })
  })
})

describe('the board of several instances', () => {
  const restored = { kind: 'restored', id: 'id-1-and', tookMs: 3, name: nameOf(1) } as const

  it('tells from where to where a session went, and not that one was only idle', async () => {
    await redis.flushAll()
    const board = createRedisBoard(redis, TTL_MS)
    const now = Date.now()
    await board.report(reportOf('a', { sessions: [used(1, now - 50)] }))
    await board.report(reportOf('a', { failovers: [{ ...restored, at: now - 40 }] }))
    expect((await board.look()).failovers).toEqual([])

    const failovers = [{ ...restored, at: now - 30 }]
    await board.report(reportOf('b', { failovers, sessions: [used(1, now - 30)] }))
    // The same name again, and another process.
    await board.report(reportOf('b', { run: 2, failovers: [{ ...restored, at: now - 20 }] }))
    const { kind, id, tookMs } = restored
    expect((await board.look()).failovers).toEqual([
      { kind, id, tookMs, at: now - 20, instance: 'b', from: 'b' },
      { kind, id, tookMs, at: now - 30, instance: 'b', from: 'a' },
    ])
    expect((await board.look()).sessions).toMatchObject([{ holder: 'b', calls: 2 }])
  })

  it('has no key that stays, and lets go of who leaves', async () => {
    await redis.flushAll()
    const board = createRedisBoard(redis, TTL_MS)
    const now = Date.now()
    const failovers = [{ ...restored, at: now }]
    for (const name of ['a', 'b']) {
      const ended = [nameOf(2)]
      await board.report(reportOf(name, { failovers, sessions: [used(1, now)], ended }))
    }
    await board.drain('a', true)
    const keys = await redis.keys('*')
    expect(keys.toSorted()).toEqual(
      ['drained', 'ended', 'failovers', 'instances', 'reported', 'sessions', 'used'].map(
        (what) => `mcp:{board}:${what}`,
      ),
    )
    for (const key of keys) expect(await redis.pTTL(key)).toBeGreaterThan(0)
    await board.leave('b')
    expect((await board.look()).instances.map(({ name }) => name)).toEqual(['a'])
  })
})

describe('an instance and its board', () => {
  it('shows nothing that a process did which is no more', async () => {
    const store = createMemoryBoard({ ttlMs: TTL_MS, now: Date.now })
    const { board } = createOwn(store)
    const busy = { ...used(1, Date.now()), streams: 2, running: 1 }
    await store.report(reportOf('a', { sessions: [busy] }))
    const seen = async () => (await board.overview()).sessions.latest
    expect(await seen()).toMatchObject([{ streams: 2, running: 1 }])
    // The same name, and another process.
    const shown = { ...reportOf('a').shown, startedAt: 2 }
    await store.report(reportOf('a', { run: 2, shown }))
    expect(await seen()).toMatchObject([{ streams: 0, running: 0 }])
  })

  it('is told later what it could not be told', async () => {
    const store = createMemoryBoard({ ttlMs: TTL_MS, now: Date.now })
    let isAway = true
    const { board, nextReport } = createOwn({
      ...store,
      report: (report) =>
        isAway ? Promise.reject(new Error('The board is away')) : store.report(report),
    })
    const id = idOf(1)
    board.onlooker.used(id, RECORD)
    board.onlooker.called(id)
    await board.start()
    board.onlooker.called(id)
    isAway = false
    nextReport()
    const calls = async () => (await board.overview()).sessions.latest.map((one) => one.calls)
    expect(await until(calls, (all) => all.length > 0)).toEqual([2])
    expect((await board.overview()).sessions.latest).toMatchObject([{ client: 'test 0' }])
  })

  it('tells of as many sessions that have ended as the board takes in', async () => {
    await redis.flushAll()
    const store = createRedisBoard(redis, TTL_MS)
    const told: Report[] = []
    const { board, nextReport } = createOwn({
      ...store,
      async report(report) {
        told.push(report)
        if (told.length === 1) throw new Error('The board is away')
        return store.report(report)
      },
    })
    const ended = (from: number): void => {
      for (let n = from; n < from + 5000; n++) board.onlooker.ended(idOf(n))
    }
    ended(0)
    await board.start()
    ended(5000)
    nextReport()
    const left = () => redis.zCard('mcp:{board}:ended')
    expect(await until(left, (count) => count > 0)).toBe(1000)
    expect(told.map((report) => report.ended.length)).toEqual([2000, 2000])
  })

  it('leaves the board when it has told what it is telling', async () => {
    const done: string[] = []
    let telling = Promise.resolve()
    const { board, nextReport } = createOwn({
      ...createMemoryBoard({ ttlMs: TTL_MS, now: Date.now }),
      async report() {
        await telling
        done.push('told')
        return { drained: false }
      },
      leave: async () => void done.push('left'),
    })
    await board.start()
    const answered = Promise.withResolvers<void>()
    telling = answered.promise
    nextReport()
    const stopped = board.stop()
    answered.resolve()
    await stopped
    expect(done).toEqual(['told', 'told', 'left'])
  })
})

const RECORD: SessionRecord = {
  principal: 'ann' as Principal,
  initialize: { protocolVersion: '2025-11-25', clientInfo: { name: 'test', version: '0' } },
  settings: { subscriptions: [] },
  standalone: 'standalone' as StreamId,
  state: {},
  version: 0,
}

/** The board of an instance, which reports when it is told to. */
function createOwn(store: BoardStore) {
  let report = (): void => undefined
  const board = createBoard({
    instance: 'a',
    topology: 'fleet',
    clock: { now: Date.now, timer: (_ms, fire) => ((report = fire), () => undefined) },
    ttlMs: TTL_MS,
    store,
    listen: () => () => undefined,
    countSessions: async () => 0,
    own: {
      activity: () => ({ held: 0, busy: new Map() }),
      isDraining: () => false,
      end: async () => false,
      drained: () => undefined,
    },
  })
  return { board, nextReport: () => report() }
}
