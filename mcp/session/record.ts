import * as z from 'zod'
import { stateTooLarge } from '../errors.ts'
import type { Commit, CommitOutcome, Entry, Reply, SessionRecord, Settings } from './store.ts'
import { parseStreamId, type Principal, type StreamId } from './ids.ts'
import { freeze, type JsonObject, type SessionState } from './state.ts'

/** What a store keeps of a session beside its streams. */
export interface StoredSession extends SessionRecord {
  /** Milliseconds since the epoch. */
  readonly seenAt: number
  readonly replies: readonly DatedReply[]
}

type DatedReply = Reply & { readonly at: number }

export interface RecordLimits {
  /**
   * A reply record is kept at least this long, unless its router has settled it before; one that
   * names a stream as long as that.
   */
  readonly replyRetentionMs: number
  readonly maxRepliesPerSession: number
  /** Of the state as JSON; unset: no limit. */
  readonly maxStateChars?: number
}

/** The rules of a commit, for stores that hold the whole session in one place. Pure. Throws `state_too_large`. */
export function applyCommit(
  stored: StoredSession | undefined,
  commit: Commit,
  now: number,
  limits: RecordLimits,
): { outcome: CommitOutcome; session?: StoredSession } {
  const base = commit.begin === undefined ? stored : newSession(commit.begin, now)
  if (base === undefined) return { outcome: { kind: 'gone' } }
  if (commit.begin !== undefined && stored !== undefined) return { outcome: { kind: 'conflict' } }

  const known = commit.reply && findReply(base, commit.reply.key, now, limits)
  if (known !== undefined) return { outcome: { kind: 'answered', reply: known } }
  const { change } = commit
  if (change !== undefined && change.from !== base.version) return { outcome: { kind: 'conflict' } }

  if (change !== undefined && change.state !== base.state) {
    checkState(JSON.stringify(change.state), limits)
  }
  const version = change === undefined ? base.version : change.from + 1
  const session = {
    ...base,
    version,
    state: change?.state ?? base.state,
    settings: commit.settings ?? base.settings,
    seenAt: now,
    replies: nextReplies(base.replies, commit, now, limits),
  }
  return { outcome: { kind: 'committed', version }, session }
}

/** Throws `state_too_large` for a state that takes more as JSON, which `text` is. */
export function checkState(text: string, { maxStateChars = Infinity }: RecordLimits): void {
  if (text.length > maxStateChars) throw stateTooLarge()
}

/** Whether a session may be shown to `owner`, if one is unnamed. */
export function isOwnedBy({ principal }: SessionRecord, owner: Principal | undefined): boolean {
  return owner === undefined || principal === owner
}

/** The reply recorded under `key`, unless it has aged: what it speaks of may be gone. */
export function findReply(
  { replies }: StoredSession,
  key: string | undefined,
  now: number,
  limits: RecordLimits,
): Reply | undefined {
  return replies.find((reply) => reply.key === key && !hasAged(reply, now, limits))
}

function hasAged(
  { at, keepMs = 0, answer }: DatedReply,
  now: number,
  { replyRetentionMs }: RecordLimits,
): boolean {
  return answer.kind === 'reply' && at <= now - Math.max(keepMs, replyRetentionMs)
}

/** The session once streams have gone: without the replies that were on them. */
export function forgetReplies(
  session: StoredSession,
  isThere: (stream: StreamId) => boolean,
): StoredSession {
  const replies = session.replies.filter(({ answer }) => {
    return answer.kind === 'reply' || isThere(answer.stream)
  })
  return replies.length === session.replies.length ? session : { ...session, replies }
}

function nextReplies(
  replies: readonly DatedReply[],
  { reply }: Commit,
  now: number,
  limits: RecordLimits,
): readonly DatedReply[] {
  const kept = replies.filter((one) => {
    return !hasAged(one, now, limits) && !isSettled(one, reply)
  })
  return reply === undefined
    ? kept
    : [...kept, { ...reply, at: now }].slice(-limits.maxRepliesPerSession)
}

function isSettled({ attempt: before }: Reply, by: Reply | undefined): boolean {
  const { attempt } = by ?? {}
  if (before === undefined || attempt === undefined) return false
  return before.sender === attempt.sender && before.number < attempt.settled
}

function newSession(begin: NonNullable<Commit['begin']>, now: number): StoredSession {
  return {
    ...begin,
    settings: { subscriptions: [] },
    state: {},
    version: 0,
    seenAt: now,
    replies: [],
  }
}

const FORMAT = 1

/** The packed row: one JSON text per session. `format` lets a later release read this one's rows. */
export function packSession(session: StoredSession): string {
  return JSON.stringify({ format: FORMAT, ...session })
}

export function unpackSession(text: string): StoredSession {
  return packedSession.parse(JSON.parse(text))
}

// The parts of a session as texts, for stores that keep them apart.
export const parseState = (text: string): SessionState => state.parse(JSON.parse(text))
export const parseBegin = (text: string): NonNullable<Commit['begin']> =>
  begin.parse(JSON.parse(text))
export const parseSettings = (text: string): Settings => settings.parse(JSON.parse(text))
/** All but its names. */
export const parseReply = (text: string): Omit<Reply, 'key' | 'attempt'> =>
  unnamed.parse(JSON.parse(text))
export const parseEntry = (text: string): Entry => entry.parse(JSON.parse(text))

const jsonObject = z.custom<JsonObject>((value) => typeof value === 'object' && value !== null)
const state = z
  .custom<SessionState>((value) => typeof value === 'object' && value !== null)
  .transform((value) => freeze(value))
const streamId = z.custom<StreamId>(
  (value) => typeof value === 'string' && parseStreamId(value) === value,
)
const begin = z.object({
  principal: z.custom<Principal>((value) => typeof value === 'string'),
  source: z.string().optional(),
  initialize: jsonObject,
  standalone: streamId,
})
const settings = z.object({ logLevel: z.string().optional(), subscriptions: z.array(z.string()) })
const unnamed = z.object({
  fingerprint: z.string(),
  keepMs: z.number().optional(),
  answer: z.discriminatedUnion('kind', [
    z.object({
      kind: z.literal('reply'),
      outcome: z.union([z.object({ result: jsonObject }), z.object({ error: jsonObject })]),
    }),
    z.object({
      kind: z.literal('stream'),
      stream: streamId,
      id: z.union([z.string(), z.number()]),
    }),
  ]),
})
const reply = unnamed.extend({
  key: z.string(),
  attempt: z.object({ sender: z.string(), number: z.int(), settled: z.int() }).optional(),
})
/** An entry's own shape was the writer's care; that it is one is looked at. */
export const entry = z.custom<Entry>(
  (value) => typeof value === 'object' && value !== null && 'kind' in value,
)

const packedSession = begin
  .extend({
    format: z.literal(FORMAT),
    settings,
    state,
    version: z.int(),
    seenAt: z.number(),
    replies: z.array(reply.extend({ at: z.number() })),
  })
  .transform((row): StoredSession => row)
