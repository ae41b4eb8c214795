/** What instances have to do with each other, call by call: the peers over one Redis. */
import { createClient, type RedisClientType } from '@redis/client'
import { afterAll, beforeAll, expect, it, onTestFinished } from 'vitest'
import { RedisPeers } from '../../haproxy-compat/redis-peers.ts'
import { systemClock, type Clock } from '../../mcp/session/clock.ts'
import type { SessionId, StreamId } from '../../mcp/session/ids.ts'
import type { RunningCall } from '../../mcp/session/peers.ts'
import { until } from '../support/mcp.ts'
import { startRedis, type RedisServer } from '../support/redis.ts'

const LEASES = 'mcp:leases'
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

it('a call that its holder has lost is found by another one', async () => {
  const [holder, other] = [await peers(), await peers()]
  const call = callOf('lost')
  holder.hold(call)
  await until(
    () => redis.zCard(LEASES),
    (count) => count === 1,
  )
  holder.letGo(call, false)
  const taken: RunningCall[] = []
  other.start(
    async (orphan) => void taken.push(orphan),
    () => true,
  )
  await until(
    async () => taken,
    ({ length }) => length > 0,
  )
  expect(taken[0]).toEqual(call)
  other.letGo(call, true)
  await until(
    () => redis.zCard(LEASES),
    (count) => count === 0,
  )
})

it('who finds as many orphans as it takes at once looks again at once', async () => {
  const orphans = Array.from({ length: 20 }, (_, n) => ({ score: 0, value: `id/orphan-${n}` }))
  await redis.zAdd(LEASES, orphans)
  const clock = new StepClock()
  const finder = await peers(clock)
  const taken: RunningCall[] = []
  finder.start(
    async (orphan) => void taken.push(orphan),
    () => true,
  )
  for (const [waitMs, found] of [
    [100, 8],
    [0, 16],
    [0, 20],
    [100, 20],
  ]) {
    expect(await clock.fire()).toBe(waitMs)
    await until(
      async () => taken.length,
      (count) => count === found,
    )
  }
})

/** Time goes on when a timer is fired, and timers tell how long they would have waited. */
class StepClock implements Clock {
  #next = Promise.withResolvers<{ ms: number; fire: () => void }>()

  now(): number {
    return 0
  }

  timer(ms: number, fire: () => void): () => void {
    this.#next.resolve({ ms, fire })
    return () => undefined
  }

  async fire(): Promise<number> {
    const { ms, fire } = await this.#next.promise
    this.#next = Promise.withResolvers()
    fire()
    return ms
  }
}

async function peers(clock: Clock = systemClock): Promise<RedisPeers> {
  const [commands, subscriber] = [await connected(), await connected()]
  const made = new RedisPeers(commands, subscriber, clock)
  onTestFinished(async () => {
    await made.stop()
    commands.destroy()
    subscriber.destroy()
  })
  return made
}

async function connected(): Promise<RedisClientType> {
  const client: RedisClientType = createClient({ url: server.url })
  client.on('error', () => undefined)
  await client.connect()
  return client
}

function callOf(name: string): RunningCall {
  return { id: name as SessionId, stream: `stream-${name}` as StreamId }
}
