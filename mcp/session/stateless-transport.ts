import {
  PerRequestHTTPServerTransport,
  type AuthInfo,
  type JSONRPCMessage,
  type JSONRPCNotification,
  type JSONRPCRequest,
  type TransportSendOptions,
} from '@modelcontextprotocol/server'
import { outcomeOf } from './message.ts'
import { STATELESS_REVISION } from './revisions.ts'
import type { RpcOutcome } from './store.ts'

/** Hears of one request. */
export interface Hearer {
  said(message: JSONRPCNotification): void
  /** `early`: it was refused before anybody was asked to handle it. */
  replied(outcome: RpcOutcome, early: boolean): void
}

const CLASSIFICATION = { era: 'modern', revision: STATELESS_REVISION } as const

/**
 * The SDK's side of all requests of the stateless revision: one server answers them, each under a
 * number of its own. By its class the SDK knows which revision is spoken.
 */
export class StatelessTransport extends PerRequestHTTPServerTransport {
  readonly #hearers = new Map<number, Hearer>()
  #runs = 0
  #receiving = false

  constructor() {
    super({ classification: CLASSIFICATION })
  }

  override async start(): Promise<void> {
    // There is nothing to open.
  }

  /** Hands a request to the SDK, and answers its number. */
  receive(request: JSONRPCRequest, hearer: Hearer, authInfo: AuthInfo): number {
    const run = ++this.#runs
    this.#hearers.set(run, hearer)
    this.#receiving = true
    this.onmessage?.({ ...request, id: run }, { classification: CLASSIFICATION, authInfo })
    this.#receiving = false
    return run
  }

  /** Nobody waits for it any more. */
  cancel(run: number): void {
    if (!this.#hearers.delete(run)) return
    const params = { requestId: run }
    const method = 'notifications/cancelled'
    this.onmessage?.({ jsonrpc: '2.0', method, params }, { classification: CLASSIFICATION })
  }

  override async send(message: JSONRPCMessage, options?: TransportSendOptions): Promise<void> {
    if (!('method' in message)) {
      const run = Number(message.id)
      const hearer = this.#hearers.get(run)
      this.#hearers.delete(run)
      hearer?.replied(outcomeOf(message), this.#receiving)
    } else if (!('id' in message)) {
      // What belongs to no request has nowhere to go.
      this.#hearers.get(Number(options?.relatedRequestId))?.said(message)
    }
  }
}
