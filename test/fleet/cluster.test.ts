/** The store over several masters, each with a part of the keys. */
import { createCluster, type RedisClusterType } from '@redis/client'
import { afterAll, beforeAll, expect } from 'vitest'
import { createRedisStore } from '../../haproxy-compat/redis-store.ts'
import { randomText, type SessionId } from '../../mcp/session/ids.ts'
import { sessionStoreContract } from '../contract/session-store.ts'
import { startCluster, type RedisGroup } from '../support/redis-ha.ts'

const ttlMs = 30 * 60 * 1000

let redis: RedisGroup
let client: RedisClusterType

beforeAll(async () => {
  redis = await startCluster()
  const address = { host: '127.0.0.1', port: redis.master.port }
  client = createCluster({ rootNodes: [{ socket: address }] })
  client.on('error', () => undefined)
  await client.connect()
})
afterAll(async () => {
  client.destroy()
  await redis.stop()
})

sessionStoreContract('Redis Cluster', async (body) => {
  let now = Date.now()
  const replyRetentionMs = 300_000
  const record = { replyRetentionMs, maxRepliesPerSession: 1024 }
  const store = createRedisStore(client, { ...record, ttlMs, now: () => now })
  const id = `:{x}${randomText(6)}` as SessionId
  const keys = ['session', 'ages'].map((what) => `mcp:{${id}}:${what}`)
  const advance = async (ms: number): Promise<void> => {
    now += ms
    for (const key of keys) await client.pExpire(key, Math.max((await client.pTTL(key)) - ms, 0))
  }
  const under = { store, id, advance, ttlMs, graceMs: 10_000, settles: false }
  await body({ ...under, retentionMs: replyRetentionMs })
  await store.drop(id)
  expect(await client.exists(keys)).toBe(0)
})
