/**
 * Redis dies, hangs and falls back behind, under a fleet at work. What a client is told then is an
 * error that it may act on: the resilient one does, and its user sees nothing.
 */
import { cpSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { createClient } from '@redis/client'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { expectNoFault, pause, resilientCallers, underChaos } from '../support/chaos.ts'
import { startFleet, type Fleet } from '../support/fleet.ts'
import { callTool, openSession, post, send, toolCall, until } from '../support/mcp.ts'

describe('a fleet whose store fails', () => {
  let fleet: Fleet

  beforeEach(async () => {
    fleet = await startFleet()
  })
  afterEach(async () => {
    await fleet.stop()
  })

  it('loses and doubles nothing when Redis is killed, and a resilient client sees no error', async () => {
    const callers = await resilientCallers(fleet, 20)
    const report = await underChaos(callers, async () => {
      for (let kill = 0; kill < 5; kill++) {
        await pause(1500)
        await restarted(fleet, () => undefined)
      }
      await pause(1500)
    })
    await Promise.all(callers.map((caller) => caller.close()))
    expect(expectNoFault(report).maxMs).toBeLessThan(3000)
  })

  it('says soon that Redis hangs, answers what needs none, and goes on when it is back', async () => {
    const session = await openSession(fleet.fetch)
    await callTool(fleet.fetch, session, 'increment_counter')
    const pid = fleet.map().redis.pid ?? 0
    const key = { 'mcp-session-id': session, 'idempotency-key': 'while it hangs' }
    const keyed = (): Promise<Response> =>
      fleet.fetch(post(JSON.stringify(toolCall('increment_counter')), key))

    process.kill(pid, 'SIGSTOP')
    const until5s = performance.now() + 5000
    const refused: number[] = []
    try {
      while (performance.now() < until5s) {
        const asked = performance.now()
        const answer = await keyed()
        refused.push(performance.now() - asked)
        expect(answer.status).toBe(503)
        expect(answer.headers.get('retry-after')).toBe('1')
        expect(await answer.json()).toMatchObject({
          error: { data: { type: 'store_unavailable' } },
        })
        // Until HAProxy has seen it of all instances a request may come to one that has not got the session.
        await fleet.allAre('DOWN')
        for (const method of ['ping', 'tools/list']) {
          const free = await send(fleet.fetch, session, { jsonrpc: '2.0', id: 1, method })
          expect(await free.json()).toHaveProperty('result')
        }
      }
    } finally {
      process.kill(pid, 'SIGCONT')
    }
    const back = performance.now()
    const recovered = await until(keyed, ({ ok }) => ok)
    const tookMs = performance.now() - back
    console.log(
      `Refused after ${refused.map(Math.round).join(', ')} ms; recovered in ${Math.round(tookMs)} ms`,
    )
    expect(Math.max(...refused)).toBeLessThan(2000)
    expect(tookMs).toBeLessThan(1000)
    // All those attempts were one call.
    expect(await recovered.text()).toContain('\\"counter\\":2')
    expect(await callTool(fleet.fetch, session, 'get_counter')).toMatchObject({ counter: 2 })
  })

  it('has states and reply records that agree when Redis comes back with an older copy', async () => {
    const callers = await resilientCallers(fleet, 10)
    await underChaos(callers, async () => {
      await pause(500)
      const data = join(fleet.folder, 'redis', 'appendonlydir')
      const copy = join(fleet.folder, 'copy')
      cpSync(data, copy, { recursive: true })
      await pause(1000)
      await restarted(fleet, () => {
        rmSync(data, { recursive: true })
        cpSync(copy, data, { recursive: true })
      })
      await pause(500)
    })
    const redis = createClient({ url: fleet.map().redis.url })
    await redis.connect()
    for (const key of await redis.keys('mcp:*:session')) {
      const fields = await redis.hGetAll(key)
      const replies = Object.entries(fields).filter(([name]) => name.startsWith('reply:'))
      const counters = replies.flatMap(([, text]) => {
        // Behind until when it is kept, and a number.
        const { result } = JSON.parse(text.slice(text.indexOf('{'))).answer.outcome
        return result.structuredContent.counter ?? []
      })
      // No reply speaks of a state that is gone, none is missing, none is there twice.
      const { counter } = JSON.parse(fields['state'] ?? '')
      const sorted = counters.toSorted((a: number, b: number) => a - b)
      expect(sorted).toEqual(Array.from({ length: counter }, (_, n) => n + 1))
    }
    redis.destroy()
    await Promise.all(callers.map((caller) => caller.close()))
  })
})

/** Kills Redis, does something to what it has on disk, and waits until it is back. */
async function restarted(fleet: Fleet, meanwhile: () => void): Promise<void> {
  const old = fleet.map().redis.pid ?? 0
  process.kill(old, 'SIGKILL')
  meanwhile()
  await until(
    async () => fleet.map().redis.pid,
    (pid) => pid !== null && pid !== old,
  )
}
