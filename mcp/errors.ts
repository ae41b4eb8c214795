import type { Log } from './log.ts'

/**
 * The one error class. `code` is stable and is what callers switch on; the table gives the HTTP
 * status and the JSON-RPC error code that go with it.
 */
export class ServerError extends Error {
  readonly code: ErrorCode

  /** `cause` is for the log: clients are not told. */
  constructor(code: ErrorCode, message: string, options?: { readonly cause: unknown }) {
    super(message, options)
    this.name = 'ServerError'
    this.code = code
  }
}

const TABLE = {
  parse_error: { status: 400, rpc: -32700 },
  invalid_request: { status: 400, rpc: -32600 },
  invalid_params: { status: 400, rpc: -32602 },
  event_id_unknown: { status: 400, rpc: -32600 },
  session_required: { status: 400, rpc: -32000 },
  protocol_version_unsupported: { status: 400, rpc: -32000 },
  anonymous_forbidden: { status: 403, rpc: -32000 },
  admin_forbidden: { status: 403, rpc: -32000 },
  host_forbidden: { status: 403, rpc: -32000 },
  origin_forbidden: { status: 403, rpc: -32000 },
  session_not_found: { status: 404, rpc: -32001 },
  instance_not_found: { status: 404, rpc: -32000 },
  method_not_allowed: { status: 405, rpc: -32000 },
  not_acceptable: { status: 406, rpc: -32000 },
  body_too_large: { status: 413, rpc: -32000 },
  media_type_unsupported: { status: 415, rpc: -32000 },
  too_many_headers: { status: 431, rpc: -32000 },
  // Answers to a call that was understood: HTTP went well, the call did not.
  idempotency_key_conflict: { status: 200, rpc: 4091 },
  call_interrupted: { status: 200, rpc: -32603 },
  call_not_deterministic: { status: 200, rpc: -32603 },
  journal_full: { status: 200, rpc: -32603 },
  state_too_large: { status: 200, rpc: -32603 },
  too_many_calls: { status: 429, rpc: -32000 },
  too_many_streams: { status: 429, rpc: -32000 },
  too_many_sessions: { status: 429, rpc: -32000 },
  too_many_subscriptions: { status: 429, rpc: -32000 },
  internal_error: { status: 500, rpc: -32603 },
  not_implemented: { status: 501, rpc: -32000 },
  auth_unavailable: { status: 503, rpc: -32000 },
  overloaded: { status: 503, rpc: -32000 },
  store_unavailable: { status: 503, rpc: -32000 },
} as const

export type ErrorCode = keyof typeof TABLE

export function httpStatusOf(code: ErrorCode): number {
  return TABLE[code].status
}

/** The JSON-RPC `error` member: `{code, message, data: {type}}`. */
export function rpcErrorOf({ code, message }: ServerError): {
  code: number
  message: string
  data: { type: ErrorCode }
} {
  return { code: TABLE[code].rpc, message, data: { type: code } }
}

/** Unknown, expired, ended and foreign sessions all get this one, so that an id tells nothing. */
export function sessionNotFound(): ServerError {
  // The SDK's words: clients in use today look for them.
  return new ServerError('session_not_found', 'Session not found')
}

export function storeAway(cause: unknown): ServerError {
  return new ServerError('store_unavailable', 'Cannot reach session store', { cause })
}

export function overloaded(): ServerError {
  return new ServerError('overloaded', 'Cannot serve request now: too many are waiting')
}

export function tooLarge(maxBytes: number): ServerError {
  return new ServerError('body_too_large', `Cannot read body: it is larger than ${maxBytes} bytes`)
}

export function stateTooLarge(): ServerError {
  return new ServerError('state_too_large', 'Cannot commit: the session holds too much')
}

export function tooManyStreams(): ServerError {
  return new ServerError('too_many_streams', 'Cannot follow stream: the session has too many open')
}

/** An error as one of ours. What goes on behind it is logged, and not told. */
export function knownError(error: unknown, log: Log): ServerError {
  const known = isServerError(error) ? error : new ServerError('internal_error', 'Internal error')
  const cause: unknown = known === error ? known.cause : error
  if (cause !== undefined) log({ event: 'request_failed', message: messageOf(cause) })
  return known
}

/** What went wrong, in its own words. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

/** True for the error of a store that can't be reached now. */
export function isAway(error: unknown): boolean {
  return isServerError(error) && error.code === 'store_unavailable'
}

/** True for a word that is one of our codes, and so was made up by nobody else. */
export function isErrorCode(word: unknown): word is ErrorCode {
  return typeof word === 'string' && Object.hasOwn(TABLE, word)
}

export function isServerError(error: unknown): error is ServerError {
  return error instanceof ServerError
}
