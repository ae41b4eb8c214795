import { ServerError } from '../errors.ts'
import type { Limits } from '../limits.ts'
import type { SessionId } from './ids.ts'
import type { SessionRecord } from './store.ts'

/** Counts sessions: to bound those of each source, and for whoever wants to know how many there are. */
export interface Census {
  /** Makes room for a new session. Throws `too_many_sessions`, having counted nothing. */
  admit(id: SessionId, source: string): Promise<void>
  /** Told of each use of a session. Never in a call's way: it returns at once, and does not fail. */
  seen(id: SessionId, record: SessionRecord): void
  /** Told of a session that has ended, or has not come to be. */
  ended(id: SessionId, source: string | undefined): void
}

/** For servers that nobody shares. */
export const uncounted: Census = {
  admit: () => Promise.resolve(),
  seen: () => undefined,
  ended: () => undefined,
}

type AdmissionLimits = Pick<Limits, 'maxSessionsPerCaller' | 'sessionsPerMinute'>

/** How new sessions are let in: `intervalMs` apart on average, and sooner by `toleranceMs` in all. */
export function pace({ sessionsPerMinute }: AdmissionLimits) {
  const intervalMs = 60_000 / sessionsPerMinute
  // Half a minute's worth may come at once.
  return { intervalMs, toleranceMs: Math.max(0, 30_000 - intervalMs) }
}

/** The sessions of one source, in memory. */
export class Admission {
  readonly #expiries: Map<string, number>
  #dueAt = 0

  constructor(expiries: Iterable<[string, number]> = []) {
    this.#expiries = new Map(expiries)
  }

  /** Whether there is room for one more, which is taken then. Times in milliseconds since the epoch. */
  admit(id: string, now: number, expiresAt: number, limits: AdmissionLimits): boolean {
    const { intervalMs, toleranceMs } = pace(limits)
    const dueAt = Math.max(now, this.#dueAt)
    const isFull = this.alive(now).length >= limits.maxSessionsPerCaller
    if (isFull || dueAt - now > toleranceMs) return false
    this.#dueAt = dueAt + intervalMs
    this.#expiries.set(id, expiresAt)
    return true
  }

  /** Says until when a session lives; one that has ended, until some time past. */
  report(id: string, expiresAt: number): void {
    this.#expiries.set(id, expiresAt)
  }

  /** Whether nothing of it need be remembered. */
  isOver(now: number): boolean {
    return this.#dueAt <= now && this.alive(now).length === 0
  }

  /** Those that live, with their ends. */
  alive(now: number): readonly [string, number][] {
    for (const [id, expiresAt] of this.#expiries) if (expiresAt <= now) this.#expiries.delete(id)
    return [...this.#expiries]
  }
}

export function tooManySessions(): ServerError {
  const why = 'the caller has opened too many'
  return new ServerError('too_many_sessions', `Cannot begin session: ${why}`)
}
