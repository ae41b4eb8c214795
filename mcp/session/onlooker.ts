import type { HeldSessions } from './held-sessions.ts'
import type { SessionId } from './ids.ts'
import type { OpenStreams } from './open-streams.ts'
import type { SessionRecord } from './store.ts'

/** Sees what goes on with sessions, to show it. Never in a call's way: it returns at once, and does not fail. */
export interface Onlooker {
  /** The session is used. */
  used(id: SessionId, record: SessionRecord): void
  /** A call of its client's has its answer. */
  called(id: SessionId): void
  /** It has ended, here or elsewhere. */
  ended(id: SessionId): void
}

/** What goes on in one process now. */
export interface Activity {
  /** How many sessions are held. */
  readonly held: number
  /** Those in which there is something, held or not. */
  readonly busy: ReadonlyMap<SessionId, Busy>
}

export interface Busy {
  /** Streams that are followed. */
  readonly streams: number
  /** Calls that run. */
  readonly running: number
}

/** Of the sessions that are `held`, and of those with open streams. */
export function activityOf(held: HeldSessions, open: OpenStreams): Activity {
  const busy = new Map<SessionId, Busy>()
  for (const [id, streams] of open) busy.set(id, { streams, running: 0 })
  for (const [id, { live }] of held) {
    const running = live?.running ?? 0
    if (running > 0) busy.set(id, { streams: busy.get(id)?.streams ?? 0, running })
  }
  return { held: held.size, busy }
}

export const nobody: Onlooker = {
  used: () => undefined,
  called: () => undefined,
  ended: () => undefined,
}
