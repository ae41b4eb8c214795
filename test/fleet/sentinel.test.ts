/** Redis with Sentinels: its master dies, and a replica takes its place. */
import { afterAll, beforeAll, describe, it } from 'vitest'
import {
  hearsOfOthers,
  losesItsMaster,
  refusesWhatMayBeLost,
  startInstances,
} from '../support/failover.ts'
import type { NodeInstance } from '../support/node.ts'
import { startSentinels, type RedisGroup } from '../support/redis-ha.ts'

describe('a fleet whose Redis has Sentinels', () => {
  let redis: RedisGroup
  let instances: NodeInstance[] = []

  beforeAll(async () => {
    redis = await startSentinels()
    instances = await startInstances(redis.url)
  })
  afterAll(async () => {
    await Promise.all(instances.map((instance) => instance.kill('SIGKILL')))
    await redis.stop()
  })

  it('refuses a change that could be lost, and applies it once', async () => {
    const [instance] = instances
    if (instance !== undefined) await refusesWhatMayBeLost(redis, instance)
  })

  it('loses nothing with its master, and does nothing twice', () =>
    losesItsMaster(redis, instances))

  it('hears of what others do, from the new master', () => hearsOfOthers(instances))
})
