/** How long to wait before a store is asked again that is away. */
export const AWAY_MS = 200

/** Time comes in from outside, so that tests can turn it. */
export interface Clock {
  /** Milliseconds since the epoch. */
  now(): number
  /** Calls `fire` once, in `ms` milliseconds, unless the returned function is called before. */
  timer(ms: number, fire: () => void): () => void
}

export const systemClock = createClock((fire, ms) => setTimeout(fire, ms))

type Timer = ReturnType<typeof setTimeout>

/** The runtime's own clock, with timers that `start` starts. */
export function createClock(start: (fire: () => void, ms: number) => Timer): Clock {
  const timer: Clock['timer'] = (ms, fire) => {
    if (ms > MAX_TIMER_MS) return longTimer(ms, fire)
    const started = start(fire, ms)
    return () => clearTimeout(started)
  }
  function longTimer(ms: number, fire: () => void): () => void {
    let stop = timer(MAX_TIMER_MS, () => {
      stop = timer(ms - MAX_TIMER_MS, fire)
    })
    return () => stop()
  }
  return { now: () => Date.now(), timer }
}

/** Some 25 days. A runtime takes what is longer for no time at all. */
export const MAX_TIMER_MS = 2 ** 31 - 1

/** Resolves in `ms` milliseconds; rejects with the signal's reason when that comes first. */
export function sleep(clock: Clock, ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason)
    const stop = clock.timer(ms, () => {
      signal?.removeEventListener('abort', abort)
      resolve()
    })
    function abort(): void {
      stop()
      reject(signal?.reason)
    }
    signal?.addEventListener('abort', abort, { once: true })
  })
}
