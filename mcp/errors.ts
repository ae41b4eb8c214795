/**
 * The one error class. `code` is stable and is what callers switch on; the table gives the HTTP
 * status and the JSON-RPC error code that go with it.
 */
export class ServerError extends Error {
  readonly code: ErrorCode

  constructor(code: ErrorCode, message: string) {
    super(message)
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
  host_forbidden: { status: 403, rpc: -32000 },
  origin_forbidden: { status: 403, rpc: -32000 },
  session_not_found: { status: 404, rpc: -32001 },
  method_not_allowed: { status: 405, rpc: -32000 },
  not_acceptable: { status: 406, rpc: -32000 },
  body_too_large: { status: 413, rpc: -32000 },
  media_type_unsupported: { status: 415, rpc: -32000 },
  // Answers to a call that was understood: HTTP went well, the call did not.
  idempotency_key_conflict: { status: 200, rpc: 4091 },
  call_interrupted: { status: 200, rpc: -32603 },
  call_not_deterministic: { status: 200, rpc: -32603 },
  journal_full: { status: 200, rpc: -32603 },
  state_too_large: { status: 200, rpc: -32603 },
  too_many_calls: { status: 429, rpc: -32000 },
  too_many_streams: { status: 429, rpc: -32000 },
  internal_error: { status: 500, rpc: -32603 },
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

/** True for the error of a store that can't be reached now. */
export function isAway(error: unknown): boolean {
  return isServerError(error) && error.code === 'store_unavailable'
}

export function isServerError(error: unknown): error is ServerError {
  return error instanceof ServerError
}
