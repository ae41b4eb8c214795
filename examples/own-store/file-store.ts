import { DatabaseSync } from 'node:sqlite'
import {
  applyCommit,
  findReply,
  isOwnedBy,
  packSession,
  unpackSession,
  type Entry,
  type RecordLimits,
  type SessionId,
  type SessionStore,
  type StoredSession,
  type StreamId,
} from 'holdfast'

export interface FileStoreOptions extends Partial<RecordLimits> {
  readonly ttlMs?: number
  readonly now?: () => number
}

/**
 * Sessions in one file, a row each, for one process. Small and not fast: a commit writes its session
 * whole. Nothing in it waits between what it reads and what it writes, so each commit is one.
 */
export function createFileStore(file: string, options: FileStoreOptions = {}): SessionStore {
  const { ttlMs = 30 * 60_000, now = Date.now } = options
  const limits = { replyRetentionMs: 5 * 60_000, maxRepliesPerSession: 1024, ...options }
  const database = new DatabaseSync(file)
  database.exec(
    'CREATE TABLE IF NOT EXISTS sessions (id TEXT PRIMARY KEY, session TEXT, streams TEXT)',
  )
  const select = database.prepare('SELECT session, streams FROM sessions WHERE id = ?')
  const replace = database.prepare('INSERT OR REPLACE INTO sessions VALUES (?, ?, ?)')
  const remove = database.prepare('DELETE FROM sessions WHERE id = ?')

  function find(id: SessionId): Held | undefined {
    const row = select.get(id)
    if (row === undefined) return undefined
    const session = unpackSession(String(row['session']))
    if (session.seenAt + ttlMs > now())
      return { session, streams: JSON.parse(String(row['streams'])) }
    remove.run(id)
    return undefined
  }

  function keep(id: SessionId, { session, streams }: Held): void {
    replace.run(id, packSession(session), JSON.stringify(streams))
  }

  return {
    async load(id, { key, owner } = {}) {
      const held = find(id)
      if (held === undefined || !isOwnedBy(held.session, owner)) return undefined
      const session = { ...held.session, seenAt: now() }
      keep(id, { ...held, session })
      return { record: session, reply: findReply(session, key, now(), limits) }
    },

    async commit(id, commit) {
      const held = find(id)
      const { outcome, session } = applyCommit(held?.session, commit, now(), limits)
      if (session === undefined) return outcome
      const streams: Held['streams'] = { [session.standalone]: [], ...held?.streams }
      for (const { stream, at, entries } of commit.append ?? []) {
        const before = streams[stream] ?? []
        if (at !== before.length + 1) return { kind: 'conflict' }
        streams[stream] = [...before, ...entries]
      }
      keep(id, { session, streams })
      return outcome
    },

    async entries(id, stream, after) {
      const entries = find(id)?.streams[stream]
      return entries && { at: Math.min(after, entries.length) + 1, entries: entries.slice(after) }
    },

    async running(id) {
      const streams = Object.entries(find(id)?.streams ?? {})
      return streams.filter(([, entries]) => isRunning(entries)).map(([name]) => name as StreamId)
    },

    async drop(id) {
      return find(id) !== undefined && remove.run(id).changes > 0
    },
  }
}

interface Held {
  readonly session: StoredSession
  readonly streams: Record<string, readonly Entry[]>
}

function isRunning(entries: readonly Entry[]): boolean {
  return entries[0]?.kind === 'begin' && entries.at(-1)?.kind !== 'end'
}
