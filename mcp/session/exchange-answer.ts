import type { JSONRPCRequest, RequestId } from '@modelcontextprotocol/server'
import { httpStatusOf, rpcErrorOf, type ServerError } from '../errors.ts'
import { eventId, type EventId, type StreamId } from './ids.ts'
import { keyConflict, type Identity } from './identity.ts'
import { respond } from './message.ts'
import type { Answer } from './router.ts'
import type { Reply, RpcOutcome } from './store.ts'

/** What a client's request comes to. */
export type ExchangeAnswer =
  | { readonly kind: 'reply'; readonly outcome: RpcOutcome }
  | { readonly kind: 'stream'; readonly after: EventId; readonly id: RequestId }
  | { readonly kind: 'failed'; readonly error: ServerError }

/** Throws what is no answer to a request, but a refusal of it. */
export function answerTo(request: JSONRPCRequest, answer: ExchangeAnswer): Answer {
  if (answer.kind === 'stream') {
    const { after, id } = answer
    return { kind: 'stream', after, ...(id !== request.id && { replyAs: request.id }) }
  }
  if (answer.kind === 'reply') {
    return { kind: 'reply', body: JSON.stringify(respond(request.id, answer.outcome)) }
  }
  const { error } = answer
  if (httpStatusOf(error.code) !== 200) throw error
  return answerTo(request, { kind: 'reply', outcome: { error: rpcErrorOf(error) } })
}

/** What an earlier run has answered; a conflict if it was asked something else. */
export function answerFrom(reply: Reply, identity: Identity | undefined): ExchangeAnswer {
  if (reply.fingerprint !== identity?.fingerprint) return { kind: 'failed', error: keyConflict() }
  const { answer } = reply
  return answer.kind === 'reply' ? answer : streamAnswer(answer.stream, answer.id)
}

/** The rest comes on `stream`, behind its priming event. */
export function streamAnswer(stream: StreamId, id: RequestId): ExchangeAnswer {
  return { kind: 'stream', after: eventId({ stream, after: 1 }), id }
}
