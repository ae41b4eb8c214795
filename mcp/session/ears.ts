import type { SessionId } from './ids.ts'
import type { News, Peers } from './peers.ts'

/** Listens to what other processes do with a session, once for all that want to know. */
export class Ears {
  readonly #peers: Peers
  readonly #hear: (id: SessionId, news: News) => void
  readonly #ears = new Map<SessionId, Ear>()

  constructor(peers: Peers, hear: (id: SessionId, news: News) => void) {
    this.#peers = peers
    this.#hear = hear
  }

  /** Until what it answers is called, as often as it was called itself. */
  listen(id: SessionId): () => void {
    const ear = this.#ears.get(id) ?? {
      users: 0,
      stop: this.#peers.listen(id, (news) => this.#hear(id, news)),
    }
    this.#ears.set(id, ear)
    ear.users++
    return () => {
      if (--ear.users > 0) return
      this.#ears.delete(id)
      ear.stop()
    }
  }
}

interface Ear {
  users: number
  readonly stop: () => void
}
