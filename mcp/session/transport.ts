import type {
  JSONRPCErrorResponse,
  JSONRPCMessage,
  JSONRPCRequest,
  JSONRPCResultResponse,
  MessageExtraInfo,
  RequestId,
  Transport,
  TransportSendOptions,
} from '@modelcontextprotocol/server'
import { randomText, type SessionId } from './ids.ts'

/** Who hears what the SDK's server says. Runs are numbered by `receiveRequest`. */
export interface Listener {
  replied(run: number, response: JSONRPCResultResponse | JSONRPCErrorResponse): Promise<void>
  /** A notification or question that belongs to a run, or to none. */
  said(message: JSONRPCMessage, run: number | undefined): Promise<void>
  failed(error: Error): void
}

/**
 * The SDK's side of a session. JSON-RPC ids are rewritten in both directions. Inwards, because
 * clients exist that call everything `1` and the SDK routes replies by id; outwards, because the
 * SDK counts its questions from 0 in every process, and the answer to a dead one must not hit.
 */
export class SessionTransport implements Transport {
  readonly sessionId: SessionId
  onmessage?: (message: JSONRPCMessage, extra?: MessageExtraInfo) => void
  onclose?: () => void
  onerror?: (error: Error) => void

  readonly #listener: Listener
  readonly #incarnation = randomText(6)
  #runs = 0

  constructor(sessionId: SessionId, listener: Listener) {
    this.sessionId = sessionId
    this.#listener = listener
    this.onerror = (error): void => listener.failed(error)
  }

  start(): Promise<void> {
    return Promise.resolve()
  }

  close(): Promise<void> {
    this.onclose?.()
    return Promise.resolve()
  }

  /** Hands a client's request to the SDK under a number of our own. */
  receiveRequest(request: JSONRPCRequest, extra?: (run: number) => MessageExtraInfo): number {
    const run = ++this.#runs
    this.onmessage?.({ ...request, id: run }, extra?.(run))
    return run
  }

  receiveNotification(message: JSONRPCMessage): void {
    this.onmessage?.(message)
  }

  /** Hands in the answer to a question of this incarnation; drops any other. */
  receiveResponse(response: JSONRPCResultResponse | JSONRPCErrorResponse): void {
    const prefix = `${this.#incarnation}-`
    const { id } = response
    if (typeof id !== 'string' || !id.startsWith(prefix)) return
    this.onmessage?.({ ...response, id: Number(id.slice(prefix.length)) })
  }

  async send(message: JSONRPCMessage, options?: TransportSendOptions): Promise<void> {
    if ('method' in message) {
      const run = options?.relatedRequestId
      return this.#listener.said(this.#outward(message), typeof run === 'number' ? run : undefined)
    }
    return this.#listener.replied(Number(message.id), message)
  }

  #outward(message: JSONRPCMessage): JSONRPCMessage {
    if ('id' in message) return { ...message, id: this.#question(message.id) }
    if ('method' in message && message.method === 'notifications/cancelled') {
      const requestId = this.#question(message.params?.['requestId'] as RequestId)
      return { ...message, params: { ...message.params, requestId } }
    }
    return message
  }

  #question(id: RequestId | undefined): string {
    return `${this.#incarnation}-${id}`
  }
}
