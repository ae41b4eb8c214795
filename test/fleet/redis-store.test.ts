import { createClient, type RedisClientType } from '@redis/client'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { createRedisStore } from '../../haproxy-compat/redis-store.ts'
import {
  createStreamId,
  randomText,
  type Principal,
  type SessionId,
} from '../../mcp/session/ids.ts'
import { sessionStoreContract } from '../contract/session-store.ts'
import { startRedis, type RedisServer } from '../support/redis.ts'

const ttlMs = 30 * 60 * 1000
const LIMITS = { ttlMs, replyRetentionMs: 300_000, maxRepliesPerSession: 1024 }
// Redis goes by its own clock; what the tests turn is set off against it with this to spare.
const graceMs = 10_000

let server: RedisServer
let redis: RedisClientType

beforeAll(async () => {
  server = await startRedis()
  redis = createClient({ url: server.url })
  await redis.connect()
})
afterAll(async () => {
  redis.destroy()
  await server.stop()
})

sessionStoreContract('Redis', async (body) => {
  let now = Date.now()
  const store = storeAt(() => now)
  // Braces, stars and colons mean something to Redis; in an id they must mean nothing.
  const id = `*?[a-z]:{x}${randomText(6)}` as SessionId
  const advance = async (ms: number): Promise<void> => {
    now += ms
    for (const key of await redis.keys('mcp:*')) {
      await redis.pExpire(key, Math.max((await redis.pTTL(key)) - ms, 0))
    }
  }
  await body({ store, id, advance, ttlMs, graceMs, settles: false, retentionMs: 300_000 })
  await store.drop(id)
  expect(await redis.keys('mcp:*')).toEqual([])
})

/** A store whose clock says `now`. */
const storeAt = (now: () => number) => createRedisStore(redis, { ...LIMITS, now })
const begin = { principal: 'me' as Principal, initialize: {}, standalone: createStreamId() }
const reply = (key: string) => ({
  key,
  fingerprint: 'f',
  answer: { kind: 'reply', outcome: { result: {} } } as const,
})
/** One of those that a router sends one after the other. */
const routed = (number: number) => ({
  ...reply(`router/s/${number}`),
  attempt: { sender: 's', number, settled: number },
})

it('all keys of a session expire at one instant, and each use moves it', async () => {
  // Many, as there may be a tick of the clock between two commands of a script.
  const ids = Array.from({ length: 4000 }, (_, number) => `alike-${number}` as SessionId)
  const store = storeAt(Date.now)
  await Promise.all(ids.map((id) => store.commit(id, { begin, reply: reply('k') })))
  const keys = await redis.keys('mcp:{alike-*')
  expect(keys).toHaveLength(2 * ids.length)
  for (const use of [
    (id: SessionId) => store.load(id),
    (id: SessionId) => store.commit(id, { change: { from: 0, state: { n: 1 } } }),
  ]) {
    await Promise.all(keys.map((key) => redis.pExpire(key, 60_000)))
    await Promise.all(ids.map((id) => use(id)))
    const all = await Promise.all(keys.map((key) => redis.pExpireTime(key)))
    const ends = new Set(keys.map((key, at) => `${key.split(':')[1]} at ${all[at]}`))
    expect(ends.size).toBe(ids.length)
    expect(Math.min(...all) - Date.now()).toBeGreaterThan(ttlMs - graceMs)
  }
})

it('replies and ended streams go when they have aged, the rest stays', async () => {
  let now = 1_000_000
  const id = randomText(9) as SessionId
  const store = storeAt(() => now)
  const [ended, open] = [createStreamId(), createStreamId()]
  const message = { jsonrpc: '2.0', method: 'm' } as const
  await store.commit(id, { begin, reply: reply('old') })
  for (const [stream, kind] of [
    [ended, 'end'],
    [open, 'message'],
  ] as const) {
    await store.commit(id, { append: [{ stream, at: 1, entries: [{ kind, message }] }] })
  }
  now += 300_001
  await store.commit(id, { reply: reply('new') })
  expect((await store.load(id, { key: 'old' }))?.reply).toBeUndefined()
  expect((await store.load(id, { key: 'new' }))?.reply).toBeDefined()
  expect(await store.entries(id, ended, 0)).toBeUndefined()
  expect((await store.entries(id, open, 0))?.entries).toHaveLength(1)
})

it('keeps no more replies and ended streams than it may, and the youngest of them', async () => {
  const id = randomText(9) as SessionId
  const limits = { ...LIMITS, maxRepliesPerSession: 4 }
  let now = 1_000_000
  const store = createRedisStore(redis, { ...limits, now: () => now++ })
  const running = createStreamId()
  const message = { jsonrpc: '2.0', method: 'm' } as const
  const request = { jsonrpc: '2.0', id: 1, method: 'm' } as const
  const begun = [{ stream: running, at: 1, entries: [{ kind: 'begin', request }] }] as const
  await store.commit(id, { begin, append: begun })
  for (let from = 0; from < 48; from++) {
    const stream = createStreamId()
    const append = [{ stream, at: 1, entries: [{ kind: 'end', message }] }] as const
    await store.commit(id, { reply: reply(`${from}`), change: { from, state: {} }, append })
  }
  // A bound of 32, which is looked after at each sixteenth commit.
  expect(await redis.zCard(`mcp:{${id}}:ages`)).toBeLessThanOrEqual(32 + 2 * 16)
  expect((await store.load(id, { key: '0' }))?.reply).toBeUndefined()
  expect((await store.load(id, { key: '47' }))?.reply).toBeDefined()
  expect(await store.running(id)).toEqual([running])
})

it('keeps the last 1024 entries of the standalone stream', async () => {
  const id = randomText(9) as SessionId
  const store = storeAt(Date.now)
  await store.commit(id, { begin })
  const entry = { kind: 'message', message: { jsonrpc: '2.0', method: 'm' } } as const
  const entries = Array.from({ length: 700 }, () => entry)
  for (const at of [1, 701, 1401]) {
    await store.commit(id, { append: [{ stream: begin.standalone, at, entries }] })
  }
  const fields = await redis.hKeys(`mcp:{${id}}:session`)
  expect(fields.filter((field) => field.startsWith('entry:'))).toHaveLength(1024)
  expect((await store.entries(id, begin.standalone, 0))?.at).toBe(2100 - 1023)
})

it("keeps the router's own replies for a minute or more, and those of a client's key for longer", async () => {
  let now = 1_000_000
  const id = randomText(9) as SessionId
  const store = storeAt(() => now)
  await store.commit(id, { begin, reply: reply('client/k') })
  await store.commit(id, { reply: routed(0) })
  const kept = async (asked: { key: string }): Promise<boolean> =>
    (await store.load(id, asked))?.reply !== undefined
  now += 59_999
  expect(await kept(routed(0))).toBe(true)
  now += 30_001
  expect(await kept(routed(0))).toBe(false)
  now += 209_999
  expect(await kept({ key: 'client/k' })).toBe(true)
  now += 1
  expect(await kept({ key: 'client/k' })).toBe(false)
})

it("keeps the router's own replies no longer than those of clients", async () => {
  let now = 1_000_000
  const id = randomText(9) as SessionId
  const limits = { ...LIMITS, replyRetentionMs: 5000 }
  const store = createRedisStore(redis, { ...limits, now: () => now })
  await store.commit(id, { begin, reply: routed(0) })
  now += 4999
  expect((await store.load(id, routed(0)))?.reply).toBeDefined()
  now += 1
  expect((await store.load(id, routed(0)))?.reply).toBeUndefined()
})

it('has one record for all that a router sends one after the other, and keeps it', async () => {
  let now = 1_000_000
  const id = randomText(9) as SessionId
  const store = storeAt(() => now)
  await store.commit(id, { begin })
  for (let from = 0; from < 48; from++) {
    now += 10_000
    await store.commit(id, { change: { from, state: {} }, reply: routed(from) })
    expect((await store.load(id, routed(from)))?.reply).toMatchObject(routed(from))
  }
  const fields = await redis.hKeys(`mcp:{${id}}:session`)
  expect(fields.filter((field) => field.startsWith('reply:'))).toHaveLength(1)
  expect(await redis.zCard(`mcp:{${id}}:ages`)).toBe(1)
  now += 90_000
  for (let from = 48; from < 64; from++) await store.commit(id, { change: { from, state: {} } })
  expect(await redis.exists(`mcp:{${id}}:ages`)).toBe(0)
})

it('refuses state of more characters than there may be, and changes nothing', async () => {
  const id = randomText(9) as SessionId
  const store = createRedisStore(redis, { ...LIMITS, now: Date.now, maxStateChars: 8 })
  await store.commit(id, { begin })
  await store.commit(id, { change: { from: 0, state: { a: 22 } } })
  const more = store.commit(id, { change: { from: 1, state: { a: 333 } } })
  await expect(more).rejects.toMatchObject({ code: 'state_too_large' })
  expect((await store.load(id))?.record).toMatchObject({ version: 1, state: { a: 22 } })
})

it('refuses what a router has sent before it sent more, and changes nothing', async () => {
  const id = randomText(9) as SessionId
  const store = storeAt(Date.now)
  await store.commit(id, { begin, reply: routed(2) })
  const late = { change: { from: 0, state: { late: true } }, reply: routed(1) }
  expect(await store.commit(id, late)).toEqual({ kind: 'conflict' })
  await expect(store.load(id, routed(1))).rejects.toMatchObject({ code: 'call_interrupted' })
  expect((await store.load(id, routed(2)))?.record).toMatchObject({ version: 0, state: {} })
  const next = { change: { from: 0, state: {} }, reply: routed(3) }
  expect((await store.commit(id, next)).kind).toBe('committed')
})

it('goes on after Redis has forgotten its scripts', async () => {
  const id = randomText(9) as SessionId
  const store = storeAt(Date.now)
  await store.commit(id, { begin })
  await redis.scriptFlush()
  expect((await store.commit(id, { change: { from: 0, state: {} } })).kind).toBe('committed')
})

it('says that the store is away when it is', async () => {
  const gone = createClient({ url: server.url, disableOfflineQueue: true })
  gone.on('error', () => undefined)
  await gone.connect()
  gone.destroy()
  const store = createRedisStore(gone, { ...LIMITS, now: Date.now })
  await expect(store.load('x' as SessionId)).rejects.toMatchObject({ code: 'store_unavailable' })
})
