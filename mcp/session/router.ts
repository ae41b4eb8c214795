import type { RequestId } from '@modelcontextprotocol/server'
import type { EventId, Principal, SessionId } from './ids.ts'
import type { Call } from './call.ts'
import type { RoundClient } from './round-call.ts'
import type { RoundRequest } from './round.ts'
import type { JsonObject, SessionState } from './state.ts'
import type { Attempt, Entry } from './store.ts'

/**
 * Knows where sessions live: the difference between the edge and the Node fleet. For every method
 * but `open`, a session that is unknown, expired, ended or another principal's is `gone`.
 */
export interface SessionRouter {
  /** Starts a session with an `initialize` request and answers that. */
  open(post: Post): Promise<Opened>
  /** Hands a message to the holder of session `id`. */
  deliver(id: SessionId, post: Post): Promise<Answer>
  /** Follows a stream: from behind `lastEventId`, or the standalone stream from now on. */
  follow(id: SessionId, principal: Principal, request: FollowRequest): Promise<Following>
  /** Ends session `id`, its streams and its calls in flight. True if there was one. */
  end(id: SessionId, principal: Principal): Promise<boolean>
}

/** Who holds sessions here, for requests of the stateless revision: each names its session itself. */
export interface SessionHolder {
  open(post: Post): Promise<Opened>
  /** Runs one round of a call on session `id`; `undefined` if the principal has none such here. */
  round(id: SessionId, principal: Principal, round: SessionRound): Promise<JsonObject | undefined>
  stateOf: StateOf
  /** Has `changed` called after each change of session `id`'s state, until `signal`. */
  watch(id: SessionId, watch: Watch): Promise<void>
}

export interface SessionRound {
  readonly request: RoundRequest
  readonly client: RoundClient
  readonly tool: (call: Call) => Promise<JsonObject>
}

export interface Watch {
  readonly principal: Principal
  readonly signal: AbortSignal
  readonly changed: () => void
  /** Called if changes can't be told of any more. */
  readonly lost: () => void
}

/** One POST, as it reaches a session's holder. Plain data: it crosses machines. */
export interface Post {
  readonly principal: Principal
  /** Whose share of sessions a new one is of; unset: the principal's. */
  readonly source?: string | undefined
  /** The body: UTF-8 was checked, JSON was not. */
  readonly body: string
  /** The `Idempotency-Key` header. */
  readonly idempotencyKey?: string | undefined
  /** The router's own key. */
  readonly attempt?: Attempt | undefined
}

export type Opened =
  | { readonly kind: 'opened'; readonly id: SessionId; readonly body: string }
  | Unserved

/** Plain data as well. */
export type Answer =
  | { readonly kind: 'reply'; readonly body: string }
  /** A notification or a response was taken. */
  | { readonly kind: 'accepted' }
  /** The answer takes time: it is on the stream, behind this event. */
  | {
      readonly kind: 'stream'
      readonly after: EventId
      /** Set if the request was sent before under another JSON-RPC id: the reply's new one. */
      readonly replyAs?: RequestId
    }
  | Unserved

export type Unserved = Refused | { readonly kind: 'gone' }

/** The message was not run. `body` is a JSON-RPC error. */
export interface Refused {
  readonly kind: 'refused'
  readonly status: number
  readonly body: string
}

export interface FollowRequest {
  readonly lastEventId?: string | undefined
  /** Aborted when nobody listens any more, and when the stream has ended. */
  readonly signal: AbortSignal
}

export type Following =
  | {
      readonly kind: 'following'
      readonly after: EventId
      readonly events: AsyncIterable<StreamEvent>
    }
  | Unserved

export type StreamEvent =
  | { readonly kind: 'event'; readonly id: EventId; readonly data: string }
  /** Another request follows this stream now. */
  | { readonly kind: 'superseded' }

/** How a session sees the others of its principal: `undefined` for unknown, expired and foreign. */
export type StateOf = (id: string, principal: Principal) => Promise<SessionState | undefined>

/** The events among a stream's entries; `at` is the place of the first entry. */
export function* eventsOf(
  stream: string,
  { entries, at }: { readonly entries: readonly Entry[]; readonly at: number },
): Generator<StreamEvent & { kind: 'event' }> {
  for (const [index, entry] of entries.entries()) {
    if (entry.kind !== 'message' && entry.kind !== 'end') continue
    yield {
      kind: 'event',
      id: `${stream}.${at + index}` as EventId,
      data: JSON.stringify(entry.message),
    }
  }
}
