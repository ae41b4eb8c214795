import type { JSONRPCMessage, JSONRPCRequest, RequestId } from '@modelcontextprotocol/server'
import type { Principal, SessionId, StreamId } from './ids.ts'
import type { JsonObject, JsonValue, SessionState } from './state.ts'

/**
 * Where sessions outlive processes. One commit is one atomic write: all of it happens or none.
 * Every method throws `store_unavailable` when the store can't be reached, and has then changed
 * nothing or may be called again with the same arguments.
 */
export interface SessionStore {
  /**
   * The session as last committed, and the reply it has under `key`; `undefined` if it never was,
   * has expired, was dropped or is not `owner`'s. A use of its owner's, or of whoever need not say
   * who asks: expiry slides.
   */
  load(id: SessionId, asked?: Asked): Promise<Loaded | undefined>

  /** Applies `commit` to the session, or says why nothing was applied. A use: expiry slides. */
  commit(id: SessionId, commit: Commit): Promise<CommitOutcome>

  /**
   * What `stream` holds behind `after`, in order; `undefined` if the session has no such stream.
   * Places count from 1. Where the store has let go of some, the answer begins later than asked; behind
   * the stream's end it is empty, and begins where the next entry will be.
   */
  entries(id: SessionId, stream: StreamId, after: number): Promise<StreamEntries | undefined>

  /** The streams of calls that have not ended. */
  running(id: SessionId): Promise<readonly StreamId[]>

  /** Ends the session: its state, replies and streams are gone together. True if there was one. */
  drop(id: SessionId): Promise<boolean>
}

export interface Asked {
  readonly owner?: Principal | undefined
  readonly key?: string | undefined
  /** Set when `key` is a router's own. */
  readonly attempt?: Attempt | undefined
}

export interface Loaded {
  readonly record: SessionRecord
  readonly reply?: Reply | undefined
}

export interface SessionRecord {
  readonly principal: Principal
  /** Whose share of sessions this one is of. */
  readonly source?: string | undefined
  /** The `params` of the `initialize` request that began the session. */
  readonly initialize: JsonObject
  readonly settings: Settings
  /** The stream that GET opens: what is said outside any call. */
  readonly standalone: StreamId
  readonly state: SessionState
  /** How many commits have changed the state. */
  readonly version: number
}

/** What a client has set for its session beside the state. */
export interface Settings {
  readonly logLevel?: string | undefined
  /** Resource URIs. */
  readonly subscriptions: readonly string[]
}

export interface Commit {
  /** Makes the session; refused with `conflict` if there is one. */
  readonly begin?: Pick<SessionRecord, 'principal' | 'source' | 'initialize' | 'standalone'>
  /** A new state, and the version it was computed from. */
  readonly change?: { readonly from: number; readonly state: SessionState }
  readonly settings?: Settings
  /** Kept under its key; if the key has a record already, that one is the outcome. */
  readonly reply?: Reply
  readonly append?: readonly Append[]
}

/** Entries for a stream's end. `at` is the first one's place: refused if another has it already. */
export interface Append {
  readonly stream: StreamId
  readonly at: number
  readonly entries: readonly Entry[]
}

/**
 * One place in a stream. Entries with a `message` are its events; together with the others they are
 * the call's journal. `op` is the number of the call's operation that the entry is of.
 */
export type Entry =
  /** Opens a call's stream. What the client asked for, so that any holder can answer it. */
  | { readonly kind: 'begin'; readonly request: JSONRPCRequest }
  /** `until` (milliseconds since the epoch) is set for a question: how long it stays open. */
  | {
      readonly kind: 'message'
      readonly message: JSONRPCMessage
      readonly op?: number
      readonly until?: number
    }
  /** What an operation that says nothing came to. */
  | ({ readonly kind: 'did'; readonly op: number; readonly what: string } & Result)
  /** The client's answer to a question, or word that none came in time. */
  | { readonly kind: 'answer'; readonly op: number; readonly outcome: RpcOutcome }
  /** The client wants no reply any more. */
  | { readonly kind: 'cancel' }
  /** Another holder runs the call from here on: what an earlier one still writes is refused. */
  | { readonly kind: 'taken'; readonly by: string }
  /** Closes a call's stream with its reply. */
  | { readonly kind: 'end'; readonly message: JSONRPCMessage }

export type Result =
  | { readonly value: JsonValue }
  | { readonly error: string }
  /** A state that was seen; without `state` it is the one that the entry before spoke of. */
  | { readonly state?: SessionState }

export interface StreamEntries {
  readonly entries: readonly Entry[]
  /** The place of the first of `entries`. */
  readonly at: number
}

/** The answer to a call, kept so that the same call sent again gets it and not a second run. */
export interface Reply {
  readonly key: string
  /** Tool and arguments: another fingerprint under the same key is a conflict. */
  readonly fingerprint: string
  /** Set when the key is a router's own. Records of its sender that are settled by it may go. */
  readonly attempt?: Attempt | undefined
  /** Kept so long, in milliseconds, if that is longer than others are. */
  readonly keepMs?: number | undefined
  readonly answer: RecordedAnswer
}

/** Names one POST over all the times its router sends it. */
export interface Attempt {
  readonly sender: string
  readonly number: number
  /** The sender has an answer to each of its POSTs with a lower number than this. */
  readonly settled: number
}

export type RecordedAnswer =
  | { readonly kind: 'reply'; readonly outcome: RpcOutcome }
  /** The answer is being, or was, sent on this stream. Kept as long as that is. */
  | { readonly kind: 'stream'; readonly stream: StreamId; readonly id: RequestId }

/** A JSON-RPC response without its id. */
export type RpcOutcome = { readonly result: JsonObject } | { readonly error: JsonObject }

export type CommitOutcome =
  | { readonly kind: 'committed'; readonly version: number }
  /** The state has another version, or the stream another end: load and compute again. */
  | { readonly kind: 'conflict' }
  /** `reply.key` has a record already. */
  | { readonly kind: 'answered'; readonly reply: Reply }
  /** No such session (any more). */
  | { readonly kind: 'gone' }
