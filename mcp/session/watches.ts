import type { SessionId } from './ids.ts'
import type { Watch } from './router.ts'

/** Who is told when a session's state changes: of each version once. */
export class Watches {
  readonly #watched = new Map<SessionId, Watched>()

  has(id: SessionId): boolean {
    return this.#watched.has(id)
  }

  /** Tells `watch` of what comes after `version`, until its signal. */
  add(id: SessionId, watch: Watch, version: number): void {
    const watched = this.#watched.get(id) ?? { version, by: new Set() }
    watched.by.add(watch)
    this.#watched.set(id, watched)
    watch.signal.addEventListener('abort', () => {
      watched.by.delete(watch)
      if (watched.by.size === 0) this.#watched.delete(id)
    })
  }

  tell(id: SessionId, version: number): void {
    const watched = this.#watched.get(id)
    if (watched === undefined || version <= watched.version) return
    watched.version = version
    for (const { changed } of watched.by) changed()
  }

  /** The session is over: there is nothing more to tell. */
  end(id: SessionId): void {
    for (const { lost } of this.#watched.get(id)?.by ?? []) lost()
  }
}

/** A session's last version that was told of, and who is told. */
interface Watched {
  version: number
  readonly by: Set<Watch>
}
