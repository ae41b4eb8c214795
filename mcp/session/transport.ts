import type {
  JSONRPCErrorResponse,
  JSONRPCMessage,
  JSONRPCNotification,
  JSONRPCRequest,
  JSONRPCResultResponse,
  MessageExtraInfo,
  RequestId,
  Transport,
  TransportSendOptions,
} from '@modelcontextprotocol/server'
import type { SessionId } from './ids.ts'
import { outcomeOf, respond } from './message.ts'
import type { JsonObject } from './state.ts'
import type { RpcOutcome } from './store.ts'

/** Who hears what the SDK's server says, by the number of the run. */
export interface Listener {
  replied(run: number, outcome: RpcOutcome): Promise<void>
  /** A notification that belongs to a run, or to none. */
  said(message: JSONRPCNotification, run: number | undefined): Promise<void>
  /** A question to the client, of operation `op` if that is said; resolves with the answer. */
  asked(question: JSONRPCRequest, run: number, op: number | undefined): Promise<RpcOutcome>
  failed(error: Error): void
}

/** What a question of operation `op` is related to. */
export function relatedTo(run: number, op: number): string {
  return `${run}/${op}`
}

export type Response = JSONRPCResultResponse | JSONRPCErrorResponse

/**
 * The SDK's side of a session. Requests are numbered anew on their way in, because clients exist
 * that call everything `1` and the SDK routes replies by id.
 */
export class SessionTransport implements Transport {
  readonly sessionId: SessionId
  onmessage?: (message: JSONRPCMessage, extra?: MessageExtraInfo) => void
  onclose?: () => void
  onerror?: (error: Error) => void

  readonly #listener: Listener
  #runs = 0
  #running: readonly number[] = []
  /** Takes the answer to a request of our own. */
  #answered: ((outcome: RpcOutcome) => void) | undefined

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

  /** A number that no other run has, whoever runs it. */
  nextRun(): number {
    return ++this.#runs
  }

  /** Hands a client's request to the SDK under a number of our own. */
  receiveRequest(run: number, request: JSONRPCRequest, extra?: MessageExtraInfo): void {
    this.#running = [...this.#running, run]
    this.onmessage?.({ ...request, id: run }, extra)
  }

  /** Has the SDK answer a request of our own. What it says meanwhile, no client hears. */
  async ask(method: string, params: JsonObject): Promise<RpcOutcome> {
    const { promise, resolve } = Promise.withResolvers<RpcOutcome>()
    this.#answered = resolve
    this.receiveRequest(this.nextRun(), { jsonrpc: '2.0', id: 0, method, params })
    const outcome = await promise
    this.#answered = undefined
    return outcome
  }

  receiveNotification(message: JSONRPCNotification): void {
    this.onmessage?.(message)
  }

  /** Tells a run that nobody waits for it any more. */
  cancel(run: number): void {
    this.#end(run)
    const params = { requestId: run }
    this.receiveNotification({ jsonrpc: '2.0', method: 'notifications/cancelled', params })
  }

  async send(message: JSONRPCMessage, options?: TransportSendOptions): Promise<void> {
    if (!('method' in message)) this.#end(Number(message.id))
    if (this.#answered !== undefined) {
      if (!('method' in message)) this.#answered(outcomeOf(message))
      return
    }
    if (!('method' in message)) {
      return this.#listener.replied(Number(message.id), outcomeOf(message))
    }
    const { relatedRequestId } = options ?? {}
    const [run, op] = relatedRequestId === undefined ? [] : parseRelated(relatedRequestId)
    if ('id' in message) {
      void this.#ask(message, run ?? this.#onlyRun(), op)
      // A question that is moot ends with its call.
    } else if (message.method !== 'notifications/cancelled') {
      const said = this.#listener.said(message, run)
      // Where a list has changed the SDK does not look what came of it.
      await (run === undefined ? said.catch((error) => this.#listener.failed(error)) : said)
    }
  }

  #end(run: number): void {
    this.#running = this.#running.filter((one) => one !== run)
  }

  /**
   * Only what a call asks is recorded with it; nothing else could take an answer after a restart. The
   * SDK's own short forms do not say which call asks, which is plain as long as there is one.
   */
  #onlyRun(): number {
    const [run, ...others] = this.#running
    if (run === undefined) throw new Error('Cannot ask the client outside a call')
    if (others.length === 0) return run
    const why = 'several calls run, and it is not said which one asks'
    throw new Error(`Cannot ask the client: ${why} (pass { relatedRequestId: ctx.mcpReq.id })`)
  }

  async #ask(question: JSONRPCRequest, run: number, op: number | undefined): Promise<void> {
    const outcome = await this.#listener.asked(question, run, op).catch((error: unknown) => {
      return { error: { code: -32603, message: String(error) } }
    })
    this.onmessage?.(respond(question.id, outcome))
  }
}

function parseRelated(related: RequestId): number[] {
  return typeof related === 'number' ? [related] : related.split('/').map(Number)
}
