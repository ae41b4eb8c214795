import { expect, it } from 'vitest'
import { createRedisStore } from '../../haproxy-compat/redis-store.ts'
import { onReplicas } from '../../haproxy-compat/replicas.ts'
import {
  createStreamId,
  randomText,
  type Principal,
  type SessionId,
} from '../../mcp/session/ids.ts'
import { clientOf, startRedis } from '../support/redis.ts'

const LIMITS = {
  ttlMs: 60_000,
  replyRetentionMs: 60_000,
  maxRepliesPerSession: 10,
  now: Date.now,
}
const begin = { principal: 'me' as Principal, initialize: {}, standalone: createStreamId() }

it('what Redis has alone is refused, written or read, and what is no news is not', async () => {
  const server = await startRedis()
  const redis = await clientOf(server.url)
  const line = { send: (command: readonly string[]) => redis.sendCommand([...command]) }
  const alone = createRedisStore(redis, LIMITS)
  const store = onReplicas(alone, { lineOf: async () => line, replicas: 1, withinMs: 10 })
  const id = randomText(9) as SessionId
  const answer = { kind: 'reply', outcome: { result: {} } } as const
  const commit = { begin, reply: { key: 'k', fingerprint: 'f', answer } }
  const refused = { code: 'store_unavailable' }
  await expect(store.commit(id, commit)).rejects.toMatchObject(refused)
  // It is written all the same, and its reply is no less at risk than it was.
  await expect(store.commit(id, { reply: commit.reply })).rejects.toMatchObject(refused)
  await expect(store.load(id, { key: 'k' })).rejects.toMatchObject(refused)
  expect(await store.load(id, { key: 'another' })).toMatchObject({ record: { version: 0 } })
  await expect(store.drop(id)).rejects.toMatchObject(refused)
  expect(await store.load(id)).toBeUndefined()
  redis.destroy()
  await server.stop()
})

it('what no Redis says that it is kept is refused as well, before long', async () => {
  const server = await startRedis()
  const redis = await clientOf(server.url)
  const line = { send: () => new Promise<never>(() => undefined) }
  const alone = createRedisStore(redis, LIMITS)
  const store = onReplicas(alone, { lineOf: async () => line, replicas: 1, withinMs: 10 })
  for (const id of [randomText(9), randomText(9)] as SessionId[]) {
    await expect(store.commit(id, { begin })).rejects.toMatchObject({ code: 'store_unavailable' })
  }
  redis.destroy()
  await server.stop()
})
