import { tooManyStreams } from '../errors.ts'
import type { SessionId, StreamId } from './ids.ts'

/** How many streams of each session are followed here, or about to be. */
export class OpenStreams {
  readonly #most: number
  readonly #open = new Map<SessionId, Map<StreamId, number>>()

  /** `most` of a session. */
  constructor(most: number) {
    this.#most = most
  }

  [Symbol.iterator](): Iterator<readonly [SessionId, ReadonlyMap<StreamId, number>]> {
    return this.#open.entries()
  }

  /** Until the follower's signal, which comes at the end of each stream. Throws `too_many_streams`. */
  reserve(id: SessionId, stream: StreamId, signal: AbortSignal): void {
    const open = this.#open.get(id) ?? new Map<StreamId, number>()
    // Whoever follows a stream takes the place of who did.
    const isNew = !open.has(stream)
    if (isNew && open.size >= this.#most) throw tooManyStreams()
    this.#open.set(id, open)
    open.set(stream, (open.get(stream) ?? 0) + 1)
    signal.addEventListener('abort', () => {
      const left = (open.get(stream) ?? 1) - 1
      if (left > 0) open.set(stream, left)
      else open.delete(stream)
      if (open.size === 0 && this.#open.get(id) === open) this.#open.delete(id)
    })
  }
}
