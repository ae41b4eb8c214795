import * as z from 'zod'
import { ServerError } from '../mcp/errors.ts'
import type { StreamId } from '../mcp/session/ids.ts'
import {
  applyCommit,
  packSession,
  unpackSession,
  type RecordLimits,
  type StoredSession,
} from '../mcp/session/record.ts'
import type { Append, Entry, SessionStore, StreamEntries } from '../mcp/session/store.ts'

//   session                    the packed row: one JSON text, rewritten whole by each commit
//   stream/<id>/<first place>  up to CHUNK_ENTRIES entries of a stream; an append rewrites the last
// Rows are what an object's storage costs, bytes in them are free: hence one row for all of a
// session, and 64 entries a row for what comes one by one and is later deleted row by row.
const SESSION = 'session'
const chunkPrefix = (stream: StreamId) => `stream/${stream}/`
const chunkKey = (stream: StreamId, first: number) =>
  `${chunkPrefix(stream)}${String(first).padStart(10, '0')}`

const CHUNK_ENTRIES = 64
const CHUNK_CHARS = 256 * 1024

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
}

export function createSqliteStore(storage: ObjectStorage, options: ObjectStoreOptions): ObjectStore {
  const { kv } = storage
  const { ttlMs, touchMs, now } = options
  const tails = new Map<StreamId, Chunk>()
  let session = readSession()
  let seenAt = session?.seenAt ?? 0

  function readSession(): StoredSession | undefined {
    const text = kv.get(SESSION)
    return typeof text === 'string' ? unpackSession(text) : undefined
  }

  /** The session, unless its time is over. The row may be behind by `touchMs`, so that is added. */
  function current(): StoredSession | undefined {
    return session !== undefined && now() < seenAt + ttlMs + touchMs ? session : undefined
  }

  function write(next: StoredSession, appends: readonly Append[]): void {
    const chunks = appends.map((part) => ({ ...part, chunk: grow(tailOf(part.stream), part) }))
    const rows = chunks.map(({ stream, chunk }) => [chunkKey(stream, chunk.first), packChunk(chunk, now())])
    if (next !== session) rows.push([SESSION, packSession(next)])
    refuseTooLarge(() => {
      const put = (): void => rows.forEach(([key = '', row]) => kv.put(key, row))
      // One row is a transaction by itself, and a cheaper one.
      if (rows.length === 1) put()
      else storage.transactionSync(put)
    })
    session = next
    seenAt = now()
    for (const { stream, chunk } of chunks) tails.set(stream, chunk)
  }

  function tailOf(stream: StreamId): Chunk {
    const known = tails.get(stream)
    if (known !== undefined) return known
    const [last] = kv.list({ prefix: chunkPrefix(stream), reverse: true, limit: 1 })
    return last === undefined ? EMPTY : unpackChunk(last)
  }

  function read(stream: StreamId, after: number): StreamEntries | undefined {
    const tail = tailOf(stream)
    if (tail.entries.length === 0 && stream !== session?.standalone) return undefined
    if (after + 1 >= tail.first) return behind([tail], after)
    return behind([...kv.list({ prefix: chunkPrefix(stream) })].map(unpackChunk), after)
  }

  /** Lets go of streams that ended long ago, and of what is old in the standalone stream. */
  function sweep(standalone: StreamId): void {
    const old = [...kv.list({ prefix: 'stream/' })]
      .map(unpackChunk)
      .filter(({ writtenAt }) => writtenAt < now() - options.replyRetentionMs)
    const ended = new Set(old.filter(isLast).map(({ stream }) => stream))
    const tail = tailOf(standalone).first
    for (const { stream, first } of old) {
      if (ended.has(stream) || (stream === standalone && first < tail)) kv.delete(chunkKey(stream, first))
    }
    for (const stream of ended) tails.delete(stream)
  }

  async function remove(): Promise<boolean> {
    const existed = current() !== undefined
    session = undefined
    tails.clear()
    await storage.deleteAll()
    return existed
  }

  return {
    async load() {
      const found = current()
      if (found === undefined) return undefined
      seenAt = now()
      if (seenAt - found.seenAt > touchMs) write({ ...found, seenAt }, [])
      return session
    },

    async commit(_id, commit) {
      const { append = [], ...changes } = commit
      const { outcome, session: next } = applyCommit(current(), commit, now(), options)
      if (next === undefined) return outcome
      if (!append.every(({ stream, at }) => at === nextPlace(tailOf(stream)))) return { kind: 'conflict' }
      const { settled: _, ...written } = changes
      const unchanged = Object.keys(written).length === 0 ? session : undefined
      write(unchanged ?? next, append)
      if (commit.begin !== undefined) void storage.setAlarm(now() + ttlMs + touchMs)
      return outcome
    },

    async entries(_id, stream, after) {
      return current() === undefined ? undefined : read(stream, after)
    },

    drop: remove,

    async tick(inUse) {
      if (inUse) seenAt = now()
      const found = current()
      if (found === undefined) {
        await remove()
        return false
      }
      sweep(found.standalone)
      if (seenAt !== found.seenAt) write({ ...found, seenAt }, [])
      void storage.setAlarm(seenAt + ttlMs + touchMs)
      return true
    },
  }
}

interface Chunk {
  /** The place of its first entry. */
  readonly first: number
  readonly entries: readonly Entry[]
  readonly chars: number
}

const EMPTY: Chunk = { first: 1, entries: [], chars: 0 }

function nextPlace({ first, entries }: Chunk): number {
  return first + entries.length
}

/** The chunk that holds `part`: the stream's last one, or a new one if that is full. */
function grow(tail: Chunk, { entries }: Append): Chunk {
  const full = tail.entries.length >= CHUNK_ENTRIES || tail.chars >= CHUNK_CHARS
  const base = full ? { first: nextPlace(tail), entries: [], chars: 0 } : tail
  const chars = base.chars + JSON.stringify(entries).length
  return { first: base.first, entries: [...base.entries, ...entries], chars }
}

function isLast({ entries }: Chunk): boolean {
  return entries.at(-1)?.kind === 'end'
}

function behind(chunks: readonly Chunk[], after: number): StreamEntries {
  const [{ first } = EMPTY] = chunks
  const at = Math.max(after + 1, first)
  return { at, entries: chunks.flatMap(({ entries }) => entries).slice(at - first) }
}

function packChunk({ entries }: Chunk, writtenAt: number): string {
  return JSON.stringify({ writtenAt, entries })
}

function unpackChunk([key, text]: [string, unknown]): Chunk & { stream: StreamId; writtenAt: number } {
  const [, stream, first] = key.split('/')
  const { entries, writtenAt } = packedChunk.parse(JSON.parse(String(text)))
  return { stream: stream as StreamId, first: Number(first), entries, writtenAt, chars: String(text).length }
}

const packedChunk = z.object({
  writtenAt: z.number(),
  entries: z.array(
    z.custom<Entry>((value) => typeof value === 'object' && value !== null && 'kind' in value),
  ),
})

/** SQLite takes 2 MB a row. */
function refuseTooLarge(write: () => void): void {
  try {
    write()
  } catch (error) {
    if (!/TOOBIG|too (big|large)/i.test(String(error))) throw error
    throw new ServerError('state_too_large', 'Cannot commit: the session would be larger than 2 MB')
  }
}
