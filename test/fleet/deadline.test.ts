import { stat } from 'node:fs/promises'
import { setImmediate } from 'node:timers/promises'
import { expect, it } from 'vitest'
import { createDeadline } from '../../haproxy-compat/deadline.ts'

const never = new Promise<never>(() => undefined)

it('hands on what comes in time, be it an answer or an error', async () => {
  const within = createDeadline(60_000)
  expect(await within(Promise.resolve('answer'))).toBe('answer')
  await expect(within(Promise.reject(new Error('refused')))).rejects.toThrow('refused')
})

it('rejects each that is not answered when it is due, and none before', async () => {
  const ms = 40
  const within = createDeadline(ms)
  const lastsMs = async (): Promise<number> => {
    const began = performance.now()
    await expect(within(never)).rejects.toThrow('No answer within 40 ms')
    return performance.now() - began
  }
  const first = lastsMs()
  sleepSync(10)
  // Due while the first one is being watched.
  const second = lastsMs()
  for (const lasted of await Promise.all([first, second])) {
    expect(lasted).toBeGreaterThanOrEqual(ms)
  }
  // By now it watches nothing, and begins anew.
  expect(await lastsMs()).toBeGreaterThanOrEqual(ms)
})

it('counts an answer that came in while this process was stalled past the deadline', async () => {
  const within = createDeadline(20)
  // The event loop looks at its timers next, and only then for what has come in.
  await setImmediate()
  const answer = within(stat('.'))
  sleepSync(200)
  expect((await answer).isDirectory()).toBe(true)
})

/** Nothing else runs here meanwhile. */
function sleepSync(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms)
}
