/**
 * Calls that speak, and the streams they speak on, while instances are killed: with clients that do
 * what the protocol asks of any client. `npm run chaos` takes a minute, `npm test` some seconds.
 */
import { expect, it, onTestFinished } from 'vitest'
import {
  callsThatSpeak,
  everySecond,
  killAny,
  listenThrough,
  listenersOf,
} from '../support/chaos.ts'
import { startFleet } from '../support/fleet.ts'
import { percentile } from '../support/percentile.ts'

const { CHAOS_SECONDS } = process.env
const SECONDS = Number(CHAOS_SECONDS ?? 4)
const PER_KIND = CHAOS_SECONDS === undefined ? 5 : 30
const CALLS = CHAOS_SECONDS === undefined ? callsThatSpeak(6, 3) : callsThatSpeak(20, 10)

it(
  'tells each client all, once and in order, while an instance is killed every second',
  { timeout: SECONDS * 1000 + 180_000 },
  async () => {
    const fleet = await startFleet()
    onTestFinished(async () => void (await fleet.stop()))
    const listeners = await listenersOf(fleet, PER_KIND)
    const report = await listenThrough(listeners, CALLS, () =>
      everySecond(SECONDS, () => killAny(fleet)),
    )
    await Promise.all(listeners.map((listener) => listener.close()))

    const { calls, events, faults, longest } = report
    const [p50Ms, p99Ms, maxMs] = [50, 99, 100].map((rank) => Math.round(percentile(longest, rank)))
    console.log(
      `${listeners.length} clients, ${calls} calls, ${events} events; longest pause of a client: p50 ${p50Ms} ms, p99 ${p99Ms} ms, max ${maxMs} ms`,
    )
    expect(faults).toEqual([])
    // In some seconds one pause of the machine would weigh as much as all kills.
    expect(p99Ms).toBeLessThan(CHAOS_SECONDS === undefined ? 10_000 : 2000)
  },
)
