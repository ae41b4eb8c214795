import { afterEach, beforeEach, expect, it, vi } from 'vitest'
import { systemClock } from '../../../mcp/session/clock.ts'

const MONTH_MS = 30 * 24 * 60 * 60 * 1000

beforeEach(() => void vi.useFakeTimers())
afterEach(() => void vi.useRealTimers())

it('fires when it is time, also in a month', () => {
  const fire = vi.fn<() => void>()
  systemClock.timer(MONTH_MS, fire)
  vi.advanceTimersByTime(MONTH_MS - 1)
  expect(fire).not.toHaveBeenCalled()
  vi.advanceTimersByTime(1)
  expect(fire).toHaveBeenCalledOnce()
})

it.each([0, 29])('fires no more once it is stopped, after %i days as well', (days) => {
  const fire = vi.fn<() => void>()
  const stop = systemClock.timer(MONTH_MS, fire)
  vi.advanceTimersByTime((days / 30) * MONTH_MS)
  stop()
  vi.advanceTimersByTime(MONTH_MS)
  expect(fire).not.toHaveBeenCalled()
})
