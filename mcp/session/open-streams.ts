import { tooManyStreams } from '../errors.ts'
import type { SessionId, StreamId } from './ids.ts'

/** How many streams of each session are followed here, or about to be. */
export class OpenStreams {
  readonly #most: number
  readonly #open = new Map<SessionId, number>()
  /** How many follow each: whoever follows a stream takes the place of who did. */
  readonly #followers = new Map<StreamId, number>()

  /** `most` of a session. */
  constructor(most: number) {
    this.#most = most
  }

  [Symbol.iterator](): Iterator<readonly [SessionId, number]> {
    return this.#open.entries()
  }

  /** Until what it answers is called, once. Throws `too_many_streams`. */
  reserve(id: SessionId, stream: StreamId): () => void {
    if (!this.#followers.has(stream)) {
      if ((this.#open.get(id) ?? 0) >= this.#most) throw tooManyStreams()
      count(this.#open, id, 1)
    }
    count(this.#followers, stream, 1)
    return () => {
      count(this.#followers, stream, -1)
      if (!this.#followers.has(stream)) count(this.#open, id, -1)
    }
  }
}

function count<K>(counts: Map<K, number>, key: K, more: 1 | -1): void {
  const now = (counts.get(key) ?? 0) + more
  if (now > 0) counts.set(key, now)
  else counts.delete(key)
}
