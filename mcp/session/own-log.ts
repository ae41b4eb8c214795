import { sessionNotFound } from '../errors.ts'
import type { StreamId } from './ids.ts'
import type { Journal } from './journal.ts'
import type { LiveSession } from './live-session.ts'
import type { Commit, Entry } from './store.ts'

/** The log of a call that runs here, as far as its holder knows it. */
export class OwnLog {
  readonly stream: StreamId
  readonly #session: LiveSession
  readonly #journal: Journal
  #next: number

  /** `next` is the place of its next entry. */
  constructor(session: LiveSession, journal: Journal, stream: StreamId, next: number) {
    this.stream = stream
    this.#session = session
    this.#journal = journal
    this.#next = next
  }

  /** Whether there is anything to know of a log that ends at `last`. */
  isBehind(last: number): boolean {
    return last >= this.#next
  }

  /**
   * Writes what is noted, `entries` and `change` at the log's end. False if its end is elsewhere,
   * because others have added to it, or if the state has another version.
   */
  async append(entries: readonly Entry[], change?: Commit['change']): Promise<boolean> {
    const batch = this.#journal.batch(entries, change && change.from + 1)
    const append = [{ stream: this.stream, at: this.#next, entries: batch.entries }]
    const outcome = await this.#session.commit({ ...(change && { change }), append })
    if (outcome.kind === 'gone') throw sessionNotFound()
    if (outcome.kind !== 'committed') return false
    this.#journal.written(batch)
    this.#next += batch.entries.length
    return true
  }

  /** Takes in what others have added, and answers that. */
  async catchUp(): Promise<readonly Entry[]> {
    const stored = await this.#session.entries(this.stream, this.#next - 1)
    if (stored === undefined) throw sessionNotFound()
    for (const entry of stored.entries) this.#journal.hear(entry)
    this.#next += stored.entries.length
    return stored.entries
  }
}
