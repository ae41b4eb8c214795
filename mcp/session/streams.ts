import { isAway, ServerError } from '../errors.ts'
import { AWAY_MS, sleep, type Clock } from './clock.ts'
import { parseEventId, type Position, type SessionId, type StreamId } from './ids.ts'
import { eventsOf, type StreamEvent } from './router.ts'
import type { SessionRecord, SessionStore, StreamEntries } from './store.ts'

/** Where a follower begins, and whether the stream has ended there. */
export interface Start extends Position {
  readonly ended: boolean
}

/**
 * Finds the place behind `lastEventId`, or the present end of the standalone stream. Throws
 * `event_id_unknown` for an id that this session has not sent, or can't replay from any more.
 */
export async function locate(
  store: SessionStore,
  id: SessionId,
  { standalone }: SessionRecord,
  lastEventId: string | undefined,
): Promise<Start> {
  if (lastEventId === undefined) {
    const after = (await nextPlace(store, id, standalone)) - 1
    return { stream: standalone, after, ended: false }
  }
  const place = parseEventId(lastEventId)
  if (place === undefined) throw unknownEvent('this is no event id')
  const { stream, after } = place
  const stored = await store.entries(id, stream, Math.max(after - 1, 0))
  const [seen] = stored?.entries ?? []
  if (stored === undefined || (after > 0 && seen === undefined)) {
    throw unknownEvent('the session has sent no such event')
  }
  if (stored.at > after + 1) throw unknownEvent('what followed it is not kept any more')
  return { stream, after, ended: after > 0 && seen?.kind === 'end' }
}

/** Where the stream's next entry will be. */
export async function nextPlace(
  store: SessionStore,
  id: SessionId,
  stream: StreamId,
): Promise<number> {
  // Nothing is there yet, so nothing is read.
  const stored = await store.entries(id, stream, Number.MAX_SAFE_INTEGER)
  return stored?.at ?? 1
}

function unknownEvent(why: string): ServerError {
  return new ServerError('event_id_unknown', `Cannot resume stream: ${why}`)
}

/** Wakes those who follow a stream of this process; a stream has one follower, the newest. */
export class Followers {
  readonly #clock: Clock
  readonly #followers = new Map<StreamId, Follower>()

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /** Says that `stream` has grown, up to place `last`. */
  wake(stream: StreamId, last = Number.POSITIVE_INFINITY): void {
    this.#followers.get(stream)?.wake(last)
  }

  /** Says that any stream of session `id` may have grown. */
  wakeAll(id: SessionId): void {
    for (const follower of this.#followers.values()) {
      if (follower.id === id) follower.wake(Number.POSITIVE_INFINITY)
    }
  }

  /** Says that `stream` is followed by another process now. */
  supersede(stream: StreamId): void {
    this.#followers.get(stream)?.stop(true)
  }

  /** Closes the connection of who follows `stream`. They may resume. */
  detach(stream: StreamId): void {
    this.#followers.get(stream)?.stop(false)
  }

  /** Ends all streams of session `id`. */
  end(id: SessionId): void {
    for (const follower of this.#followers.values()) if (follower.id === id) follower.stop(false)
  }

  /** Ends the streams that are `meant`, of whatever session. */
  endAll(meant: (stream: StreamId) => boolean): void {
    for (const [stream, follower] of this.#followers) if (meant(stream)) follower.stop(false)
  }

  /** The events behind `start`, as they are committed, until the stream, or `signal`, ends. */
  async *follow(
    store: SessionStore,
    id: SessionId,
    start: Start,
    signal: AbortSignal,
  ): AsyncGenerator<StreamEvent> {
    const { stream } = start
    const state = { after: start.after, over: start.ended, superseded: false }
    let grown = Promise.withResolvers<void>()
    const follower: Follower = {
      id,
      wake: (last) => {
        if (last > state.after) grown.resolve()
      },
      stop: (superseded) => {
        Object.assign(state, { over: true, superseded })
        grown.resolve()
      },
    }
    this.#followers.get(stream)?.stop(true)
    this.#followers.set(stream, follower)
    signal.addEventListener('abort', () => follower.stop(false), { once: true })
    try {
      for (; !state.superseded; await grown.promise) {
        grown = Promise.withResolvers<void>()
        const look = (): Promise<StreamEntries | undefined> =>
          store.entries(id, stream, state.after)
        const stored = await this.#whenThere(look, () => state.over)
        if (stored === undefined) return
        yield* eventsOf(stream, stored)
        state.after = stored.at + stored.entries.length - 1
        if (stored.entries.at(-1)?.kind === 'end') return
        // What was there when the stream was let go still goes out.
        if (state.over && !state.superseded) return
      }
      yield { kind: 'superseded' }
    } finally {
      if (this.#followers.get(stream) === follower) this.#followers.delete(stream)
    }
  }

  /** Asks the store again as long as it is away: the client's connection is as good as before. */
  async #whenThere<T>(look: () => Promise<T>, isOver: () => boolean): Promise<T> {
    for (;;) {
      try {
        return await look()
      } catch (error) {
        if (!isAway(error) || isOver()) throw error
      }
      await sleep(this.#clock, AWAY_MS)
    }
  }
}

interface Follower {
  readonly id: SessionId
  readonly wake: (last: number) => void
  readonly stop: (superseded: boolean) => void
}
