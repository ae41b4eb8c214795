import {
  isInitializeRequest,
  isJSONRPCErrorResponse,
  isJSONRPCNotification,
  isJSONRPCRequest,
  isJSONRPCResultResponse,
  type InitializeRequest,
  type JSONRPCMessage,
  type JSONRPCErrorResponse,
  type JSONRPCNotification,
  type JSONRPCRequest,
  type JSONRPCResultResponse,
  type RequestId,
} from '@modelcontextprotocol/server'
import { ServerError, tooLarge } from '../errors.ts'
import type { Limits } from '../limits.ts'
import type { JsonObject } from './state.ts'
import type { RpcOutcome } from './store.ts'

/** One JSON-RPC message as a client may send it. */
export type Incoming =
  | { kind: 'request'; message: JSONRPCRequest }
  | { kind: 'notification'; message: JSONRPCNotification }
  | { kind: 'response'; message: JSONRPCResultResponse | JSONRPCErrorResponse }

type MessageLimits = Pick<Limits, 'maxDepth' | 'maxIdLength' | 'maxInitializeBytes'>

/** Throws `parse_error` for what is not JSON and `invalid_request` for what is not one message. */
export function parseMessage(text: string, { maxDepth, maxIdLength }: MessageLimits): Incoming {
  if (depthOf(text) > maxDepth) throw refused(`it nests deeper than ${maxDepth} levels`)
  const message = parseJson(text)
  if (Array.isArray(message)) throw refused('batches are not served')
  if (typeof message !== 'object' || message === null) throw refused('it is not an object')
  if ('id' in message && !isRequestId(message.id, maxIdLength)) {
    throw refused(`id must be an integer or a string of up to ${maxIdLength} characters`)
  }
  if (isJSONRPCRequest(message)) {
    const { progressToken = 0 } = message.params?._meta ?? {}
    if (isRequestId(progressToken, maxIdLength)) return { kind: 'request', message }
    throw refused('its progress token is not what an id may be')
  }
  if (!('id' in message) && isJSONRPCNotification(message)) return { kind: 'notification', message }
  if (isJSONRPCResultResponse(message) || isJSONRPCErrorResponse(message)) {
    return { kind: 'response', message }
  }
  throw refused('it is no JSON-RPC 2.0 request, notification or response')
}

export type InitializeMessage = JSONRPCRequest & InitializeRequest

/** What a POST without a session id must be: the request that begins one. */
export function parseInitialize(text: string, limits: MessageLimits): InitializeMessage {
  const { kind, message } = parseMessage(text, limits)
  if (kind !== 'request' || message.method !== 'initialize') {
    throw new ServerError('session_required', 'Bad Request: the mcp-session-id header is missing')
  }
  const { maxInitializeBytes } = limits
  if (encoder.encode(text).length > maxInitializeBytes) throw tooLarge(maxInitializeBytes)
  if (isInitializeRequest(message)) return message
  throw new ServerError(
    'invalid_params',
    'Cannot begin session: its params are not those of initialize',
  )
}

export function respond(id: RequestId, outcome: RpcOutcome): JSONRPCMessage {
  return { jsonrpc: '2.0', id, ...outcome } as JSONRPCMessage
}

/** A response without its id. */
export function outcomeOf(
  response: Pick<JSONRPCResultResponse, 'result'> | Pick<JSONRPCErrorResponse, 'error'>,
): RpcOutcome {
  if ('result' in response) return { result: response.result as JsonObject }
  const { code, message, data } = response.error
  return { error: { code, message, ...(data !== undefined && { data: data as JsonObject }) } }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    throw new ServerError('parse_error', 'Cannot read message: it is not JSON')
  }
}

function refused(why: string): ServerError {
  return new ServerError('invalid_request', `Cannot accept message: ${why}`)
}

function isRequestId(id: unknown, maxLength: number): id is RequestId {
  return typeof id === 'string' ? id.length <= maxLength : Number.isSafeInteger(id)
}

/** How deep brackets nest outside strings; read off the text, so that no parser meets the depth. */
function depthOf(text: string): number {
  let depth = 0
  let deepest = 0
  let inString = false
  for (let at = 0; at < text.length; at++) {
    const char = text.charCodeAt(at)
    if (inString) {
      if (char === BACKSLASH) at++
      else if (char === QUOTE) inString = false
    } else if (char === QUOTE) inString = true
    else if (char === OPEN_OBJECT || char === OPEN_ARRAY) deepest = Math.max(deepest, ++depth)
    else if (char === CLOSE_OBJECT || char === CLOSE_ARRAY) depth--
  }
  return deepest
}

const encoder = new TextEncoder()
const BACKSLASH = 0x5c
const QUOTE = 0x22
const OPEN_OBJECT = 0x7b
const CLOSE_OBJECT = 0x7d
const OPEN_ARRAY = 0x5b
const CLOSE_ARRAY = 0x5d
