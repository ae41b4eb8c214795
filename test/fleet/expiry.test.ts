import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { pause } from '../support/chaos.ts'
import { openSession, send, toolCall, type RpcReply } from '../support/mcp.ts'
import { startNode, type NodeInstance } from '../support/node.ts'
import { startRedis, type RedisServer } from '../support/redis.ts'

const TTL_MS = 2000
const SESSIONS = 50
const ROUNDS = 3

// Two instances, so that one may hold what the other has seen expire.
describe('sessions used at the very moment of their expiry', () => {
  let redis: RedisServer
  let instances: NodeInstance[] = []

  beforeAll(async () => {
    redis = await startRedis()
    const env = {
      REDIS_URL: redis.url,
      SESSION_SECRET: 'of this test alone',
      SESSION_TTL_SECONDS: String(TTL_MS / 1000),
    }
    instances = await Promise.all([1, 2].map(() => startNode(env)))
  })
  afterAll(async () => {
    for (const instance of instances) await instance.kill('SIGKILL')
    await redis.stop()
  })

  it('go on or are gone, and never begin again', async () => {
    const [first] = instances
    const sessions = await Promise.all(
      Array.from({ length: SESSIONS }, () => openSession(first?.fetch ?? fetch)),
    )
    const outcomes = await Promise.all(sessions.map(use))
    const lives = outcomes.map((statuses) => statuses.filter((status) => status === 200).length)
    console.log(`Of ${ROUNDS + 1} uses each: ${lives.join(' ')}`)
    // Else the moment was missed: all were early, or all were late.
    expect(lives.some((count) => count > 1)).toBe(true)
    expect(lives.some((count) => count <= ROUNDS)).toBe(true)
  })

  /** Uses a session now, and each time 50 ms around its expiry; answers the statuses. */
  async function use(session: string): Promise<number[]> {
    const statuses: number[] = []
    // Not all at once: what is early or late by 50 ms must not wait in a queue for longer.
    await pause(Math.random() * 1000)
    let due = performance.now()
    for (let round = 0; round <= ROUNDS; round++) {
      await pause(Math.max(due - performance.now(), 0))
      due = performance.now() + TTL_MS - 50 + Math.random() * 100
      const instance = instances[round % instances.length]
      const answer = await send(instance?.fetch ?? fetch, session, toolCall('increment_counter'))
      const { result } = (await answer.json()) as RpcReply
      statuses.push(answer.status)
      if (answer.status === 200) expect(result?.structuredContent?.['counter']).toBe(round + 1)
      else expect(answer.status).toBe(404)
      // Once gone, gone for good.
      if (round > 0 && statuses[round - 1] === 404) expect(answer.status).toBe(404)
    }
    return statuses
  }
})
