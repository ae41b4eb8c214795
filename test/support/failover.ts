import { setTimeout as pause } from 'node:timers/promises'
import { expect } from 'vitest'
import { resilientCallers, underChaos } from './chaos.ts'
import { connect } from './client.ts'
import { callTool, openSession, post, toolCall, until } from './mcp.ts'
import { startNode, type NodeInstance } from './node.ts'
import type { RedisGroup } from './redis-ha.ts'

// With 0 what is lost is told and not minded: `docs/scale-out.md` says what that came to.
const REPLICAS = process.env['REDIS_WAIT_REPLICAS'] ?? '1'
const SESSIONS = 24

/** Three instances over one Redis, without HAProxy. */
export async function startInstances(redisUrl: string): Promise<NodeInstance[]> {
  const env = {
    REDIS_URL: redisUrl,
    REDIS_WAIT_REPLICAS: REPLICAS,
    SESSION_SECRET: 'shared by the three of them',
  }
  return Promise.all([1, 2, 3].map((n) => startNode({ ...env, INSTANCE_ID: `mcp-server-${n}` })))
}

/** What no replica has is refused, though the master has it; sent again it is not done twice. */
export async function refusesWhatMayBeLost(
  redis: RedisGroup,
  { fetch }: NodeInstance,
): Promise<void> {
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
  expect((await fetch(post(body, headers))).status).toBe(503)
  await redis.rejoin()
  expect(await (await fetch(post(body, headers))).text()).toContain('counter')
  expect(await callTool(fetch, session, 'get_counter')).toMatchObject({ counter: 1 })
}

/** A master that has no replica any more is told for half a second, and dies. */
export async function losesItsMaster(
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
export async function hearsOfOthers([here, there]: readonly NodeInstance[]): Promise<void> {
  if (here === undefined || there === undefined) throw new Error('There are no two instances')
  // Enough of them for each part of a cluster.
  await Promise.all(
    Array.from({ length: 9 }, async () => {
      const { session, logs, call } = await connect(`${here.url}/mcp`)
      const watching = call('watch_counter', { duration_seconds: 2 })
      await until(
        async () => logs.length,
        (heard) => heard > 0,
      )
      await callTool(there.fetch, session, 'increment_counter')
      expect(await watching).toMatchObject({ total_changes: 1 })
    }),
  )
}
