import { createClient, type RedisClientType } from '@redis/client'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createRedisStore } from '../../haproxy-compat/redis-store.ts'
import { httpAnswersContract } from '../contract/http-answers.ts'
import { sessionsContract } from '../contract/sessions.ts'
import { createLocalApp, type LocalApp } from '../support/local-app.ts'
import { callTool, openSession, type Fetch } from '../support/mcp.ts'
import { startRedis, type RedisServer } from '../support/redis.ts'

let server: RedisServer
let redis: RedisClientType
let instances: LocalApp[]

beforeAll(async () => {
  server = await startRedis()
  redis = createClient({ url: server.url })
  await redis.connect()
  const options = {
    ttlMs: 1_800_000,
    replyRetentionMs: 300_000,
    maxRepliesPerSession: 1024,
    now: Date.now,
  }
  const store = createRedisStore(redis, options)
  instances = ['local-1', 'local-2', 'local-3'].map((instance) =>
    createLocalApp({ store, instance }),
  )
})
afterAll(async () => {
  redis.destroy()
  await server.stop()
})

const first: Fetch = (request) => instanceAt(0)(request)

httpAnswersContract('Redis behind one instance', first)
sessionsContract('Redis behind one instance', first)

describe('three instances over one Redis', () => {
  it('apply 200 increments that come at once to all of them, each once', async () => {
    const session = await openSession(first)
    const calls = Array.from({ length: 200 }, (_, n) =>
      callTool(instanceAt(n), session, 'increment_counter'),
    )
    const counters = (await Promise.all(calls)).map(({ counter }) => Number(counter))
    expect(counters.toSorted((a, b) => a - b)).toEqual(Array.from({ length: 200 }, (_, n) => n + 1))
  })

  it('serve each session round robin', async () => {
    const session = await openSession(first)
    for (let n = 1; n <= 30; n++) {
      expect(await callTool(instanceAt(n), session, 'increment_counter')).toMatchObject({
        counter: n,
      })
    }
  })
})

function instanceAt(n: number): Fetch {
  const instance = instances[n % instances.length]
  if (instance === undefined) throw new Error('No instance')
  return instance.fetch
}
