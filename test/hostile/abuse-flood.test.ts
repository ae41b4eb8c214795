/** One address that opens sessions as fast as it can. */
import { createClient, type RedisClientType } from '@redis/client'
import { afterEach, describe, expect, it } from 'vitest'
import { LIMITS } from '../../mcp/limits.ts'
import { startFleet, type Fleet } from '../support/fleet.ts'
import { startCanaries, timesOf } from './abuse-canary.ts'
import { figuresOf, floodFrom } from './abuse-flood.ts'
import { footprintsOf, growthOf } from './abuse-footprint.ts'
import { START, type Topology } from './topologies.ts'

const FLOOD = { count: 2000, seconds: 10 }
// A local workerd takes far less.
const EDGE_FLOOD = { count: 800, seconds: 4 }
const ONE = { count: 1, seconds: 1 }
const HERE = '127.0.0.1'
const ELSEWHERE = '127.0.0.2'
const CANARIES = 5
const GROWN_MB = 150
const REDIS_BYTES_EACH = 4096

const AT_ONCE = LIMITS.sessionsPerMinute / 2
const PER_SECOND = LIMITS.sessionsPerMinute / 60

describe('a flood of new sessions', () => {
  let running: { stop: () => Promise<unknown> }

  afterEach(() => running.stop())

  it('is let in to its share by the fleet, and nobody else feels it', async () => {
    const fleet = await startFleet()
    running = fleet
    const pids = fleet.map().instances.map(({ pid }) => pid)
    const canaries = await startCanaries(fleet.fetch, CANARIES)
    const [memory, stored] = [footprintsOf(pids), await storedBy(fleet)]

    const began = performance.now()
    const openings = await floodFrom(HERE, fleet.url, FLOOD)
    const seconds = (performance.now() - began) / 1000
    const [other] = await floodFrom(ELSEWHERE, fleet.url, ONE)
    const { faults, tookMs } = await canaries.stop()

    const [grown, now] = [growthOf(memory, footprintsOf(pids)), await storedBy(fleet)]
    const figures = figuresOf(openings)
    const redis = { keys: now.keys - stored.keys, bytes: now.bytes - stored.bytes }
    console.log(JSON.stringify({ ...figures, redis, grown, canary: timesOf(tookMs), other }))

    expect(figures.others).toBe(0)
    expect(figures.admitted).toBeGreaterThanOrEqual(AT_ONCE - CANARIES)
    expect(figures.admitted).toBeLessThanOrEqual(AT_ONCE + PER_SECOND * seconds + 1)
    const untold = openings.filter(({ status, retryAfter }) => status === 429 && !retryAfter)
    expect(untold).toEqual([])
    expect(other?.status).toBe(200)
    expect(faults).toEqual([])
    expect(timesOf(tookMs).p99).toBeLessThan(500)
    for (const { residentMb } of grown) expect(residentMb).toBeLessThan(GROWN_MB)
    expect(redis.keys).toBeLessThan(figures.admitted * 2)
    expect(redis.bytes).toBeLessThan(figures.admitted * REDIS_BYTES_EACH + 1e6)
  })

  it('makes no object on the edge past its share', async () => {
    const edge: Topology = await START.edge()
    running = edge
    const url = `http://127.0.0.1:${edge.port}/mcp`
    const before = (await edge.kept()).length
    const began = performance.now()
    const openings = await floodFrom(HERE, url, EDGE_FLOOD)
    const seconds = (performance.now() - began) / 1000
    const figures = figuresOf(openings)
    const objects = (await edge.kept()).length - before
    console.log(JSON.stringify({ ...figures, objects, seconds }))
    expect(figures.others).toBe(0)
    expect(figures.admitted).toBeLessThanOrEqual(AT_ONCE + PER_SECOND * seconds + 1)
    expect(objects).toBeLessThanOrEqual(figures.admitted)
  })
})

/** How many keys Redis has, and how much memory it takes. */
async function storedBy({ map }: Fleet): Promise<{ keys: number; bytes: number }> {
  const redis: RedisClientType = createClient({ url: map().redis.url })
  await redis.connect()
  const [, used] = /used_memory:(\d+)/.exec(await redis.info('memory')) ?? []
  const keys = await redis.dbSize()
  redis.destroy()
  return { keys, bytes: Number(used) }
}
