/** An instance that its operator wants empty; by SIGTERM, it is `test/fleet/streams.test.ts`. */
import { expect, it } from 'vitest'
import { createDrain } from '../../haproxy-compat/drain.ts'
import { systemClock } from '../../mcp/session/clock.ts'
import { until } from '../support/mcp.ts'

it('lets go of quiet streams at once, and of those that calls speak on when these have ended', async () => {
  const { drain, done, ended } = createScene()
  drain.set(true)
  expect(drain.isDraining()).toBe(true)
  await until(
    async () => done.length,
    (steps) => steps > 0,
  )
  expect(done).toEqual(['quiet'])
  ended.resolve()
  await until(
    async () => done.length,
    (steps) => steps > 1,
  )
  expect(done).toEqual(['quiet', 'handed over', 'all'])
})

it('keeps what it still has when it is wanted again', async () => {
  const { drain, done, ended } = createScene()
  drain.set(true)
  await until(
    async () => done.length,
    (steps) => steps > 0,
  )
  drain.set(false)
  expect(drain.isDraining()).toBe(false)
  ended.resolve()
  // All that would be done now is done before a timer fires.
  await new Promise((resolve) => setTimeout(resolve))
  expect(done).toEqual(['quiet'])
})

it('goes on draining though it cannot tell what runs', async () => {
  const { drain, done, ended } = createScene()
  drain.set(true)
  await until(
    async () => done.length,
    (steps) => steps > 0,
  )
  ended.reject(new Error('Away'))
  // An error that nobody takes is told after a turn, and would end the process.
  await new Promise((resolve) => setTimeout(resolve))
  expect(drain.isDraining()).toBe(true)
})

function createScene() {
  const done: string[] = []
  const ended = Promise.withResolvers<void>()
  const drain = createDrain({
    clock: systemClock,
    router: { idle: () => ended.promise },
    detach: (which) => void done.push(which),
    handOver: async () => void done.push('handed over'),
    stop: async () => undefined,
    drainMs: 0,
    stopMs: 60_000,
  })
  return { drain, done, ended }
}
