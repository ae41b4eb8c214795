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
  /** The place of its next entry, and what is at the one before. */
  #next: number
  #last: Entry | undefined

  /** `entries` are all that it holds. */
  constructor(session: LiveSession, journal: Journal, stream: StreamId, entries: readonly Entry[]) {
    this.stream = stream
    this.#session = session
    this.#journal = journal
    this.#next = entries.length + 1
    this.#last = entries.at(-1)
  }

  /** Whether there is anything to know of a log that ends at `last`. */
  isBehind(last: number): boolean {
    return last >= this.#next
  }

  /**
   * Writes what is noted and `entries` at the log's end, and `more`. False if its end is elsewhere,
   * because others have added to it, or if the state has another version.
   */
  async append(entries: readonly Entry[], more?: Omit<Commit, 'append'>): Promise<boolean> {
    const batch = this.#journal.batch(entries, more?.change && more.change.from + 1)
    const append = [{ stream: this.stream, at: this.#next, entries: batch.entries }]
    const outcome = await this.#session.commit({ ...more, append })
    if (outcome.kind === 'gone') throw sessionNotFound()
    if (outcome.kind !== 'committed') return false
    this.#journal.written(batch)
    this.#moveBehind(batch.entries)
    return true
  }

  /**
   * Takes in what others have added, and answers that; `undefined` if the log is not the one that
   * was written here, because the store has come back with an older copy.
   */
  async catchUp(): Promise<readonly Entry[] | undefined> {
    const stored = await this.#session.entries(this.stream, this.#next - 2)
    if (stored === undefined) throw sessionNotFound()
    const [last, ...added] = stored.entries
    if (JSON.stringify(last) !== JSON.stringify(this.#last)) return undefined
    for (const entry of added) this.#journal.hear(entry)
    this.#moveBehind(added)
    return added
  }

  #moveBehind(entries: readonly Entry[]): void {
    this.#next += entries.length
    this.#last = entries.at(-1) ?? this.#last
  }
}
