import { stateTooLarge } from '../mcp/errors.ts'
import type { SessionId, StreamId } from '../mcp/session/ids.ts'
import {
  applyCommit,
  findReply,
  forgetReplies,
  isOwnedBy,
  packSession,
  unpackSession,
  type RecordLimits,
  type StoredSession,
} from '../mcp/session/record.ts'
import type {
  Append,
  Asked,
  Commit,
  CommitOutcome,
  Loaded,
  SessionRecord,
  SessionStore,
  StreamEntries,
} from '../mcp/session/store.ts'
import {
  behind,
  chunkKey,
  chunkPrefix,
  EMPTY,
  grow,
  isLast,
  nextPlace,
  packChunk,
  unpackChunk,
  type Chunk,
} from './chunks.ts'

//   session                    the packed row: one JSON text, rewritten whole by each commit
//   stream/<id>/<first place>  up to CHUNK_ENTRIES entries of a stream; an append rewrites the last
// Rows are what an object's storage costs, bytes in them are free: hence one row for all of a
// session, and 64 entries a row for what comes one by one and is later deleted row by row.
const SESSION = 'session'

// A call whose object was reset, and whose client never comes back, goes on this late at most.
const RUNNING_ALARM_MS = 5000

// A row takes 2 MB, and a character up to two bytes of it.
const MAX_ROW_CHARS = 1_000_000

/** What the store needs of `ctx.storage`; all of it is synchronous, and so is a commit. */
export type ObjectStorage = Pick<
  DurableObjectStorage,
  'kv' | 'transactionSync' | 'setAlarm' | 'deleteAll'
>

export interface ObjectStoreOptions extends RecordLimits {
  readonly ttlMs: number
  readonly now: () => number
  /** A use that changes nothing is put on record only if the last record is older than this. */
  readonly touchMs: number
}

/** The store of the one session that lives in this object. */
export interface ObjectStore extends SessionStore {
  /**
   * For the object's alarm: ends the session if it was unused for long enough, else sets the
   * alarm again. `inUse` counts as a use. True if the session goes on.
   */
  tick(inUse: boolean): Promise<boolean>
  /** The session, looked at without using it. */
  look(): SessionRecord | undefined
  /** The place of the stream's last entry. */
  lastOf(stream: StreamId): number
}

export function createSqliteStore(
  storage: ObjectStorage,
  options: ObjectStoreOptions,
): ObjectStore {
  return new SqliteStore(storage, options)
}

class SqliteStore implements ObjectStore {
  readonly #storage: ObjectStorage
  /** Asking storage for it takes as long as half a write. */
  readonly #kv: ObjectStorage['kv']
  readonly #options: ObjectStoreOptions
  readonly #tails = new Map<StreamId, Chunk>()
  #session: StoredSession | undefined
  /** When the session was last used; its row may be behind by `touchMs`. */
  #seenAt: number
  /** When the alarm that this incarnation has set last is due. */
  #alarmAt = 0

  constructor(storage: ObjectStorage, options: ObjectStoreOptions) {
    const text = storage.kv.get(SESSION)
    this.#storage = storage
    this.#kv = storage.kv
    this.#options = options
    this.#session = typeof text === 'string' ? unpackSession(text) : undefined
    this.#seenAt = this.#session?.seenAt ?? 0
  }

  async load(_id: SessionId, { key, owner }: Asked = {}): Promise<Loaded | undefined> {
    const session = this.#current()
    if (session === undefined || !isOwnedBy(session, owner)) return undefined
    this.#seenAt = this.#options.now()
    this.#write(session, [])
    return { record: session, reply: findReply(session, key, this.#seenAt, this.#options) }
  }

  async commit(_id: SessionId, commit: Commit): Promise<CommitOutcome> {
    const { append = [] } = commit
    const now = this.#options.now()
    const { outcome, session } = applyCommit(this.#current(), commit, now, this.#options)
    if (session === undefined) return outcome
    if (!append.every(({ stream, at }) => at === nextPlace(this.#tailOf(stream)))) {
      return { kind: 'conflict' }
    }
    const { begin, change, settings, reply } = commit
    const onlyAppends = [begin, change, settings, reply].every((part) => part === undefined)
    this.#seenAt = now
    this.#write(onlyAppends && this.#session ? this.#session : session, append)
    const opens = append.some(({ entries }) => entries[0]?.kind === 'begin')
    if (begin !== undefined || opens) await this.#setAlarm(opens)
    return outcome
  }

  async entries(
    _id: SessionId,
    stream: StreamId,
    after: number,
  ): Promise<StreamEntries | undefined> {
    const session = this.#current()
    if (session === undefined) return undefined
    const tail = this.#tailOf(stream)
    if (tail.entries.length === 0 && stream !== session.standalone) return undefined
    if (after + 1 >= tail.first) return behind([tail], after)
    const rows = this.#kv.list({ prefix: chunkPrefix(stream) })
    return behind([...rows].map(unpackChunk), after)
  }

  async drop(): Promise<boolean> {
    const existed = this.#current() !== undefined
    this.#session = undefined
    this.#tails.clear()
    await this.#storage.deleteAll()
    return existed
  }

  async running(): Promise<readonly StreamId[]> {
    return this.#current() === undefined ? [] : this.#running(this.#chunks())
  }

  look(): SessionRecord | undefined {
    return this.#current()
  }

  lastOf(stream: StreamId): number {
    return nextPlace(this.#tailOf(stream)) - 1
  }

  async tick(inUse: boolean): Promise<boolean> {
    // Whatever the clock says, this was the alarm.
    this.#alarmAt = 0
    if (inUse) this.#seenAt = this.#options.now()
    const session = this.#current()
    if (session === undefined) {
      await this.drop()
      return false
    }
    const chunks = this.#sweep(this.#chunks(), session.standalone)
    const streams = new Set(chunks.map(({ stream }) => stream))
    const left = forgetReplies(session, (stream) => streams.has(stream))
    this.#write(left, [])
    await this.#setAlarm(this.#running(chunks).length > 0)
    return true
  }

  /** The session, unless its time is over. */
  #current(): StoredSession | undefined {
    return this.#options.now() < this.#expiresAt() ? this.#session : undefined
  }

  #expiresAt(): number {
    return this.#seenAt + this.#options.ttlMs + this.#options.touchMs
  }

  /** One alarm for all: while a call runs it comes often, to see whether somebody still runs it. */
  async #setAlarm(isRunning: boolean): Promise<void> {
    const at = isRunning ? this.#options.now() + RUNNING_ALARM_MS : this.#expiresAt()
    if (isRunning && this.#alarmAt > this.#options.now() && this.#alarmAt <= at) return
    this.#alarmAt = at
    await this.#storage.setAlarm(at)
  }

  /** Writes what has changed; that the session was used is a change only once in a while. */
  #write(next: StoredSession, appends: readonly Append[]): void {
    const { now, touchMs } = this.#options
    const stale = this.#seenAt - next.seenAt > touchMs
    const session = stale ? { ...next, seenAt: this.#seenAt } : next
    const chunks = appends.map((part) => {
      return { stream: part.stream, chunk: grow(this.#tailOf(part.stream), part) }
    })
    const rows = chunks.map(({ stream, chunk }) => {
      return { key: chunkKey(stream, chunk.first), text: packChunk(chunk, now()) }
    })
    if (session !== this.#session) rows.push({ key: SESSION, text: packSession(session) })
    this.#put(rows)
    this.#session = session
    for (const { stream, chunk } of chunks) {
      if (isLast(chunk)) this.#tails.delete(stream)
      else this.#tails.set(stream, chunk)
    }
  }

  #put(rows: readonly { key: string; text: string }[]): void {
    if (rows.some(({ text }) => text.length > MAX_ROW_CHARS)) {
      throw stateTooLarge()
    }
    const put = (): void => {
      for (const { key, text } of rows) this.#kv.put(key, text)
    }
    // One row is a transaction by itself, and a cheaper one.
    if (rows.length <= 1) put()
    else this.#storage.transactionSync(put)
  }

  #tailOf(stream: StreamId): Chunk {
    const known = this.#tails.get(stream)
    if (known !== undefined) return known
    const [last] = this.#kv.list({ prefix: chunkPrefix(stream), reverse: true, limit: 1 })
    if (last === undefined) return EMPTY
    const tail = unpackChunk(last)
    this.#tails.set(stream, tail)
    return tail
  }

  /** Lets go of streams that ended long ago, and of what is old in the standalone stream. Answers the rest. */
  #sweep(chunks: readonly ChunkHead[], standalone: StreamId): readonly ChunkHead[] {
    const { now, replyRetentionMs } = this.#options
    const old = chunks.filter(({ writtenAt }) => writtenAt < now() - replyRetentionMs)
    const ended = new Set(old.filter(({ ends }) => ends).map(({ stream }) => stream))
    const tail = this.#tailOf(standalone).first
    const isGone = ({ stream, first }: ChunkHead): boolean =>
      ended.has(stream) || (stream === standalone && first < tail)
    const gone = new Set(old.filter(isGone))
    for (const { stream, first } of gone) this.#kv.delete(chunkKey(stream, first))
    for (const stream of ended) this.#tails.delete(stream)
    return chunks.filter((chunk) => !gone.has(chunk))
  }

  /** What chunks there are, one in memory at a time: there may be many. */
  #chunks(): ChunkHead[] {
    return Array.from(this.#kv.list({ prefix: 'stream/' }), (row) => {
      const chunk = unpackChunk(row)
      const { stream, first, writtenAt } = chunk
      const begins = chunk.entries[0]?.kind === 'begin'
      return { stream, first, writtenAt, begins, ends: isLast(chunk) }
    })
  }

  #running(chunks: readonly ChunkHead[]): StreamId[] {
    const ended = new Set(chunks.filter(({ ends }) => ends).map(({ stream }) => stream))
    const begun = chunks.filter(({ begins }) => begins).map(({ stream }) => stream)
    return begun.filter((stream) => !ended.has(stream))
  }
}

interface ChunkHead {
  readonly stream: StreamId
  readonly first: number
  readonly writtenAt: number
  readonly begins: boolean
  readonly ends: boolean
}
