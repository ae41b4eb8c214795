/** Redis with Sentinels, and as a Cluster: a master dies, and a replica takes its place. */
import { setTimeout as pause } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { resilientCallers, underChaos } from '../support/chaos.ts'
import { connect } from '../support/client.ts'
import { callTool, openSession, post, toolCall, until } from '../support/mcp.ts'
import { startNode, type NodeInstance } from '../support/node.ts'
import { startCluster, startSentinels, type RedisGroup } from '../support/redis-ha.ts'

// With 0 what is lost is told and not minded: `docs/scale-out.md` says what that came to.
const REPLICAS = process.env['REDIS_WAIT_REPLICAS'] ?? '1'
const SESSIONS = 24

describe.each([
  ['has Sentinels', startSentinels],
  ['is a Cluster', startCluster],
])('a fleet whose Redis %s', (_kind, startGroup) => {
  let redis: RedisGroup
  let instances: NodeInstance[] = []

  beforeAll(async () => {
    redis = await startGroup()
    instances = await startInstances(redis.url)
  })
  afterAll(async () => {
    await Promise.all(instances.map((instance) => instance.kill('SIGKILL')))
    await redis.stop()
  })

  it('refuses a change that could be lost, and applies it once', () =>
    refusesWhatMayBeLost(redis, instances))

  it('loses nothing with a master, and does nothing twice', () => losesItsMaster(redis, instances))

  it('hears of what others do, from the new master', () => hearsOfOthers(instances))
})

/** Three instances over one Redis, without HAProxy. */
async function startInstances(redisUrl: string): Promise<NodeInstance[]> {
  const env = {
    REDIS_URL: redisUrl,
    REDIS_WAIT_REPLICAS: REPLICAS,
    SESSION_SECRET: 'shared by the three of them',
  }
  return Promise.all([1, 2, 3].map((n) => startNode({ ...env, INSTANCE_ID: `mcp-server-${n}` })))
}

/** What no replica has is refused, though the master has it; sent again it is not done twice. */
async function refusesWhatMayBeLost(
  redis: RedisGroup,
  [instance, ...others]: readonly NodeInstance[],
): Promise<void> {
  if (instance === undefined) throw new Error('There is no instance')
  const { fetch } = instance
  let session = await openSession(fetch)
  while (!(await redis.hasMaster(`mcp:{${session}}:session`))) session = await openSession(fetch)
  const headers = { 'mcp-session-id': session, 'idempotency-key': 'once' }
  const body = JSON.stringify(toolCall('increment_counter'))
  await redis.cutOff()
  const began = performance.now()
  const refused = await fetch(post(body, headers))
  expect(performance.now() - began).toBeLessThan(2000)
  expect([refused.status, refused.headers.get('retry-after')]).toEqual([503, '1'])
  // It has been done, and its record is not to be told either before a replica has it.
  for (const one of [instance, ...others]) {
    expect((await one.fetch(post(body, headers))).status).toBe(503)
  }
  await redis.rejoin()
  expect(await (await fetch(post(body, headers))).text()).toContain('counter')
  expect(await callTool(fetch, session, 'get_counter')).toMatchObject({ counter: 1 })
}

/** A master that has no replica any more is told for half a second, and dies. */
async function losesItsMaster(
  redis: RedisGroup,
  instances: readonly NodeInstance[],
): Promise<void> {
  const url = instances.map((instance) => `${instance.url}/mcp`)
  const callers = await resilientCallers({ url }, SESSIONS)
  const { calls, errors, faults, longest } = await underChaos(callers, async () => {
    await pause(1000)
    await redis.cutOff()
    await pause(500)
    await redis.failOver()
    await pause(2000)
  })
  for (const caller of callers) await caller.close()
  const most = Math.round(Math.max(...longest))
  console.log(`REDIS_WAIT_REPLICAS=${REPLICAS}: ${calls} calls, the longest took ${most} ms`)
  expect(errors).toEqual({})
  if (REPLICAS === '0')
    console.log(faults.filter((fault) => fault.includes('in effect')).join('\n'))
  else expect(faults).toEqual([])
}

/** News of a session reach another instance, by whichever master is there now. */
async function hearsOfOthers([here, there]: readonly NodeInstance[]): Promise<void> {
  if (here === undefined || there === undefined) throw new Error('There are no two instances')
  // Enough of them for each part of a cluster.
  await Promise.all(
    Array.from({ length: 9 }, async () => {
      const { session, logs, call } = await connect(`${here.url}/mcp`)
      const watching = call('watch_counter', { duration_seconds: 5 })
      await until(
        async () => logs.length,
        (heard) => heard > 0,
      )
      await callTool(there.fetch, session, 'increment_counter')
      expect(await watching).toMatchObject({ total_changes: 1 })
    }),
  )
}
