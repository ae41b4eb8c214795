import { expect, it } from 'vitest'
import { textResponse } from '../../../mcp/http/sse.ts'
import type { Clock } from '../../../mcp/session/clock.ts'

it('lets go of what it reads from, of its timer and of who follows when its reader leaves', async () => {
  const { response, stop, timers, over } = open(endless())
  const reader = response.body?.getReader()
  await reader?.read()
  // There is no room for any more: all that can be done without it is done.
  await new Promise((resolve) => setImmediate(resolve))
  await reader?.cancel()
  await over
  expect([stop.signal.aborted, timers.size]).toEqual([true, 0])
})

it('goes no further when it is stopped from outside', async () => {
  const { response, stop, timers, over } = open(endless())
  stop.abort()
  await over
  expect(await response.text()).toBe('first;')
  expect(timers.size).toBe(0)
})

it('ends with what it reads from, its headers and those of all streams before it', async () => {
  const { response, stop, timers } = open(some('a', 'b'))
  expect(await response.text()).toBe('first;a;b;')
  expect([stop.signal.aborted, timers.size]).toEqual([true, 0])
  expect(response.headers.get('mcp-session-id')).toBe('x')
  expect(response.headers.get('content-type')).toBe('text/event-stream')
})

it('ends where there is no more to be had', async () => {
  const { response, stop } = open(failing())
  expect(await response.text()).toBe('first;a;')
  expect(stop.signal.aborted).toBe(true)
})

async function* some(...parts: string[]): AsyncGenerator<string> {
  yield* parts
}

async function* endless(): AsyncGenerator<string> {
  for (;;) yield 'more'
}

async function* failing(): AsyncGenerator<string> {
  yield 'a'
  throw new Error('It is away')
}

/** With room for one text at a time. */
function open(parts: AsyncGenerator<string>) {
  const stop = new AbortController()
  const timers = new Set<() => void>()
  const clock: Clock = {
    now: Date.now,
    timer(_ms, fire) {
      timers.add(fire)
      return () => void timers.delete(fire)
    },
  }
  const { promise: over, resolve } = Promise.withResolvers<void>()
  async function* watched(): AsyncGenerator<string> {
    try {
      yield* parts
    } finally {
      resolve()
    }
  }
  const texts = { first: 'first;', rest: watched(), textOf: (part: string) => `${part};` }
  const headers = { 'mcp-session-id': 'x' }
  const options = { clock, keepAliveMs: 1000, maxBufferedBytes: 1, headers }
  return { response: textResponse(texts, options, stop), stop, timers, over }
}
