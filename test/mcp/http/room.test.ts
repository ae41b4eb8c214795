import * as fc from 'fast-check'
import { expect, it } from 'vitest'
import { Room } from '../../../mcp/http/room.ts'
import { systemClock } from '../../../mcp/session/clock.ts'

const PLACES = 3
const SPAN_MS = 250

it('has places for those who have come in this span or the last, and are not answered', () =>
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      let now = 1_000_000
      const room = new Room(PLACES, { ...systemClock, now: () => now })
      const open: { span: number; leave: () => void }[] = []
      for (const { kind, at, ms } of steps) {
        const span = Math.floor(now / SPAN_MS)
        if (kind === 'pass') now += ms
        else if (kind === 'answer') open.splice(at % (open.length || 1), 1)[0]?.leave()
        else if (open.filter((one) => one.span >= span - 1).length < PLACES) {
          open.push({ span, leave: room.enter() })
        } else expect(() => room.enter()).toThrow(expect.objectContaining({ code: 'overloaded' }))
      }
    }),
    { numRuns: 500, seed: 20_261_121 },
  ))

const step = fc.record({
  kind: fc.constantFrom('come', 'come', 'answer', 'pass'),
  at: fc.nat(10),
  ms: fc.nat(2 * SPAN_MS),
})
