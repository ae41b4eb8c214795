import type { SessionId, StreamId } from './ids.ts'
import {
  applyCommit,
  findReply,
  forgetReplies,
  isOwnedBy,
  type RecordLimits,
  type StoredSession,
} from './record.ts'
import type { Append, Entry, SessionStore } from './store.ts'

/** The reference implementation of the store: what it does is what the port promises. */
export function createMemoryStore(options: MemoryStoreOptions): SessionStore {
  const { ttlMs, now } = options
  const sessions = new Map<SessionId, { session: StoredSession; streams: Map<StreamId, Tail> }>()

  function find(id: SessionId) {
    const held = sessions.get(id)
    if (held === undefined || held.session.seenAt + ttlMs > now()) return held
    sessions.delete(id)
    return undefined
  }

  return {
    async load(id, { key, owner } = {}) {
      const held = find(id)
      if (held === undefined || !isOwnedBy(held.session, owner)) return undefined
      held.session = { ...held.session, seenAt: now() }
      const { session } = held
      return { record: session, reply: findReply(session, key, now(), options) }
    },

    async commit(id, commit) {
      const held = find(id)
      const streams = held?.streams ?? new Map<StreamId, Tail>()
      const appends = commit.append ?? []
      const { outcome, session } = applyCommit(held?.session, commit, now(), options)
      if (session === undefined) return outcome
      if (!appends.every((part) => part.at === nextPlace(streams.get(part.stream)))) {
        return { kind: 'conflict' }
      }
      for (const part of appends) {
        const keep = part.stream === session.standalone ? options.standaloneTail : Infinity
        streams.set(part.stream, extend(streams.get(part.stream), part, keep, now()))
      }
      const gone = forgetEnded(streams, now() - options.replyRetentionMs)
      const left = gone ? forgetReplies(session, (stream) => streams.has(stream)) : session
      sessions.set(id, { session: left, streams })
      return outcome
    },

    async entries(id, stream, after) {
      const held = find(id)
      const tail =
        held?.streams.get(stream) ?? (held?.session.standalone === stream ? EMPTY : undefined)
      if (tail === undefined) return undefined
      const at = Math.min(Math.max(after + 1, tail.at), nextPlace(tail))
      return { at, entries: tail.entries.slice(at - tail.at) }
    },

    async running(id) {
      const streams = [...(find(id)?.streams ?? [])]
      return streams.filter(([, tail]) => isRunning(tail)).map(([stream]) => stream)
    },

    async drop(id) {
      return find(id) !== undefined && sessions.delete(id)
    },
  }
}

export interface MemoryStoreOptions extends RecordLimits {
  readonly ttlMs: number
  readonly now: () => number
  /** How many entries of a session's standalone stream can be replayed. */
  readonly standaloneTail: number
}

/** A stream from its place `at` on; places count from 1. */
interface Tail {
  readonly at: number
  readonly entries: readonly Entry[]
  /** When its last entry came. */
  readonly grownAt: number
}

const EMPTY: Tail = { at: 1, entries: [], grownAt: 0 }

/** Streams of calls go when they have ended before `at`. They lie about in that order. True if any went. */
function forgetEnded(streams: Map<StreamId, Tail>, at: number): boolean {
  const { size } = streams
  for (const [stream, { entries, grownAt }] of streams) {
    if (entries.at(-1)?.kind !== 'end') continue
    if (grownAt > at) break
    streams.delete(stream)
  }
  return streams.size < size
}

function isRunning({ entries }: Tail): boolean {
  return entries[0]?.kind === 'begin' && entries.at(-1)?.kind !== 'end'
}

function nextPlace({ at, entries }: Tail = EMPTY): number {
  return at + entries.length
}

function extend(tail: Tail = EMPTY, { entries }: Append, keep: number, grownAt: number): Tail {
  const all = [...tail.entries, ...entries]
  const dropped = Math.max(0, all.length - keep)
  return { at: tail.at + dropped, entries: all.slice(dropped), grownAt }
}
