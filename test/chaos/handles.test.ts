/** Sessions by handle, while instances die, and while nobody knows where sessions are. */
import { afterEach, describe, expect, it } from 'vitest'
import { everySecond, killAny } from '../support/chaos.ts'
import { withoutAffinity } from '../support/affinity.ts'
import { startFleet, type Fleet } from '../support/fleet.ts'
import { openHandle, runTool } from '../support/stateless.ts'

const SECONDS = Number(process.env['CHAOS_SECONDS'] ?? 5)
const CLIENTS = 20

describe('a fleet with stock clients of 2026-07-28', () => {
  let fleet: Fleet

  afterEach(async () => {
    await fleet.stop()
  })

  it('loses and doubles nothing while an instance is killed every second', async () => {
    fleet = await startFleet()
    const handles = await Promise.all(
      Array.from({ length: CLIENTS }, () => openHandle(fleet.fetch)),
    )
    const load = { over: false }
    let longestMs = 0
    const running = Promise.all(
      handles.map(async (session) => {
        let calls = 0
        while (!load.over) {
          const began = performance.now()
          const { counter } = await runTool(fleet.fetch, 'increment_counter', { session })
          expect(counter).toBe(++calls)
          longestMs = Math.max(longestMs, performance.now() - began)
        }
        return calls
      }),
    )
    await everySecond(SECONDS, () => killAny(fleet)).finally(() => (load.over = true))
    const calls = await running
    await expectCounters(handles, calls)
    const total = calls.reduce((sum, count) => sum + count, 0)
    console.log(
      `${total} calls by handle, ${SECONDS} kills; the longest ${Math.round(longestMs)} ms`,
    )
  })

  it('counts right without a stick table, each call on the next instance', async () => {
    fleet = await startFleet({ HAPROXY_CONFIG: withoutAffinity() })
    await fleet.allAre('UP')
    const handles = await Promise.all(Array.from({ length: 50 }, () => openHandle(fleet.fetch)))
    const calls = Array.from({ length: 300 }, (_, index) => handles[index % 50] ?? '')
    const results = await Promise.all(
      calls.map((session) => runTool(fleet.fetch, 'increment_counter', { session })),
    )
    const instances = new Set(results.map(({ instance }) => instance))
    console.log(`300 calls at once over 50 handles, on ${instances.size} instances`)
    expect(instances.size).toBe(3)
    for (const session of handles) {
      const own = results.filter((_, index) => calls[index] === session)
      const counters = own.map(({ counter }) => Number(counter)).toSorted((a, b) => a - b)
      expect(counters).toEqual([1, 2, 3, 4, 5, 6])
    }
    await expectCounters(
      handles,
      handles.map(() => 6),
    )
  })

  async function expectCounters(
    handles: readonly string[],
    counters: readonly number[],
  ): Promise<void> {
    const results = await Promise.all(
      handles.map((session) => runTool(fleet.fetch, 'get_counter', { session })),
    )
    expect(results.map(({ counter }) => counter)).toEqual(counters)
  }
})
