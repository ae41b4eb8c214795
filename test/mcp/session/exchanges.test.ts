import { expect, it } from 'vitest'
import type { Clock } from '../../../mcp/session/clock.ts'
import type { Exchange } from '../../../mcp/session/exchange.ts'
import { Exchanges } from '../../../mcp/session/exchanges.ts'

it('has a call once, by its present run, until it is over', () => {
  const { exchanges, exchange } = start()
  const [one, other] = [exchange(), exchange()]
  exchanges.add(one, 1)
  exchanges.add(other, 2)
  exchanges.add(one, 3)
  expect([exchanges.size, exchanges.get(1), exchanges.get(3)]).toEqual([2, undefined, one])
  exchanges.forget(one)
  expect([...exchanges]).toEqual([other])
})

it('gives a stream to what has run for a whole turn, and to no other', () => {
  const { exchanges, exchange, turn, streamed } = start()
  const [early, late] = [exchange(), exchange()]
  exchanges.add(early, 1)
  exchanges.watch()
  exchanges.add(late, 2)
  exchanges.watch()
  turn()
  expect(streamed).toEqual([early])
  turn()
  expect(streamed).toEqual([early, late])
})

function start() {
  const timers: (() => void)[] = []
  const clock: Clock = {
    now: Date.now,
    timer(_ms, fire) {
      timers.push(fire)
      return () => undefined
    },
  }
  const streamed: Exchange[] = []
  /** What a call is to those who keep it. */
  function exchange(): Exchange {
    const one = {
      run: 0,
      stream: undefined as string | undefined,
      restart(run: number): void {
        one.run = run
      },
      async openStream(): Promise<void> {
        if (one.stream === undefined) streamed.push(one as unknown as Exchange)
        one.stream = 's'
      },
    }
    return one as unknown as Exchange
  }
  const turn = (): void => timers.splice(0).forEach((fire) => fire())
  return { exchanges: new Exchanges(clock, 50), exchange, turn, streamed }
}
