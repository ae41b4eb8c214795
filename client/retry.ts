import type { ClientEvent } from './events.ts'

export interface RetryOptions {
  /** The wait before a retry is a random part of this, doubled with each attempt up to `capMs`. */
  readonly baseMs: number
  readonly capMs: number
  /** A call that nobody has answered for so long is given up. */
  readonly deadlineMs: number
  readonly clock: Clock
  /** From 0 to 1. */
  readonly random: () => number
  readonly onEvent: (event: ClientEvent) => void
}

/** Time comes in from outside, so that tests can turn it. */
export interface Clock {
  /** Milliseconds since the epoch. */
  now(): number
  /** Calls `fire` once, in `ms` milliseconds, unless the returned function is called before. */
  timer(ms: number, fire: () => void): () => void
}

export const RETRY_DEFAULTS: RetryOptions = {
  baseMs: 20,
  capMs: 400,
  deadlineMs: 15_000,
  clock: {
    now: () => Date.now(),
    timer(ms, fire) {
      const timer = setTimeout(fire, ms)
      return () => clearTimeout(timer)
    },
  },
  random: () => Math.random(),
  onEvent: () => undefined,
}

/**
 * What the resilient client itself fails with; `code` is stable. `deadline_exceeded`: nobody has
 * answered in time. `session_lost`: the server has lost the session and opens no other.
 * `call_lost`: a stream broke, and the server does not take its call up again.
 */
export class ClientError extends Error {
  readonly code: 'deadline_exceeded' | 'session_lost' | 'call_lost'

  constructor(code: ClientError['code'], message: string, cause?: unknown) {
    super(message, { cause })
    this.name = 'ClientError'
    this.code = code
  }
}

/** Why an attempt was in vain. `afterMs` is the least wait the server asks for. */
export interface Failure {
  readonly why: string
  readonly afterMs: number
  readonly error?: unknown
}

/** The attempts of one call: the waits between them, and their end at the deadline. */
export class Attempts {
  readonly #options: RetryOptions
  readonly #deadlineMs: number
  /** Until when each server has asked this call to leave it alone. */
  readonly #rests = new Map<string, number>()
  #made = 0
  #since: number

  /** `endless`: for what no caller waits for, such as the standalone stream. */
  constructor(options: RetryOptions, { endless }: { endless: boolean }) {
    this.#options = options
    this.#deadlineMs = endless ? Infinity : options.deadlineMs
    this.#since = options.clock.now()
  }

  leftMs(): number {
    return this.#since + this.#deadlineMs - this.#options.clock.now()
  }

  /** `url` has asked to be left alone for `ms`; another server has not. */
  rest(url: string, ms: number): void {
    this.#rests.set(url, this.#options.clock.now() + ms)
  }

  restMs(url: string): number {
    const now = this.#options.clock.now()
    return Math.max((this.#rests.get(url) ?? now) - now, 0)
  }

  /** There was an answer, and it broke: the time to the deadline begins anew. */
  restart(): void {
    this.#since = this.#options.clock.now()
  }

  /** The call has come further: waits are short again. */
  progressed(): void {
    this.#made = 0
  }

  /** Waits before the next attempt. Throws `deadline_exceeded` if that would be too late. */
  async wait(method: string, failure: Failure, signal: AbortSignal): Promise<void> {
    const { clock, onEvent } = this.#options
    const { why, error } = failure
    // On top of what the server asks for: else all clients come back at once, and in step with it.
    const waitMs = failure.afterMs + backoffMs(this.#made, this.#options)
    this.#made += 1
    if (waitMs < this.leftMs()) {
      onEvent({ event: 'attempt_failed', method, attempt: this.#made, waitMs, why })
      await sleep(clock, waitMs, signal)
      // A timer can be late.
      if (this.leftMs() > 0) return
    }
    const told = `Cannot finish ${method}: no answer in ${this.#deadlineMs} ms, last cause: ${why}`
    throw new ClientError('deadline_exceeded', told, error)
  }
}

/** Full jitter: a random wait under a cap that doubles with each attempt, counted from 0. */
export function backoffMs(attempt: number, options: RetryOptions): number {
  const { baseMs, capMs, random } = options
  return random() * Math.min(capMs, baseMs * 2 ** attempt)
}

/** `Retry-After` in either form, seconds or a date; 0 if there is none. */
export function retryAfterMs({ headers }: Response, clock: Clock): number {
  const text = headers.get('retry-after')?.trim() ?? ''
  const ms = /^[0-9]+$/.test(text) ? Number(text) * 1000 : Date.parse(text) - clock.now()
  return Number.isFinite(ms) ? Math.max(ms, 0) : 0
}

function sleep(clock: Clock, ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason)
    const abort = (): void => {
      stop()
      reject(signal.reason)
    }
    const stop = clock.timer(ms, () => {
      signal.removeEventListener('abort', abort)
      resolve()
    })
    signal.addEventListener('abort', abort, { once: true })
  })
}
