import * as fc from 'fast-check'
import { expect, it } from 'vitest'
import { Room } from '../../../mcp/http/room.ts'
import { systemClock } from '../../../mcp/session/clock.ts'

const PLACES = 3
const SPAN_MS = 250

it('has places for those who have come in this span or the last, and are not answered', () =>
  fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
      let now = 1_000_000
      const room = new Room(PLACES, { ...systemClock, now: () => now })
      const open: { span: number; answer: () => Promise<void> }[] = []
      for (const { kind, at, ms } of steps) {
        const span = Math.floor(now / SPAN_MS)
        if (kind === 'pass') now += ms
        else if (kind === 'answer') await open.splice(at % (open.length || 1), 1)[0]?.answer()
        else if (open.filter((one) => one.span >= span - 1).length < PLACES) {
          const { promise, resolve } = Promise.withResolvers<Response>()
          const waiting = room.within(() => promise)
          const answer = async (): Promise<void> => {
            resolve(new Response())
            await waiting
          }
          open.push({ span, answer })
        } else await expect(room.within(neverCalled)).rejects.toMatchObject({ code: 'overloaded' })
      }
    }),
    { numRuns: 500, seed: 20_261_121 },
  ))

it('gives the place of one that fails to the next', async () => {
  const room = new Room(1, { ...systemClock, now: () => 0 })
  await expect(room.within(() => Promise.reject(new Error('no')))).rejects.toThrow('no')
  expect((await room.within(async () => new Response())).status).toBe(200)
})

const step = fc.record({
  kind: fc.constantFrom('come', 'come', 'answer', 'pass'),
  at: fc.nat(10),
  ms: fc.nat(2 * SPAN_MS),
})

function neverCalled(): Promise<Response> {
  throw new Error('It was called')
}
