import type { JSONRPCNotification, RequestId } from '@modelcontextprotocol/server'
import type { Clock } from '../session/clock.ts'
import { respond } from '../session/message.ts'
import type { Hearer } from '../session/stateless-transport.ts'
import type { RpcOutcome } from '../session/store.ts'
import { json } from './responses.ts'

// The only error of a handler's that has a status of its own: the client can't be asked.
const MISSING_CAPABILITY = -32021
const HEADERS = {
  'content-type': 'text/event-stream',
  'cache-control': 'no-cache, no-transform',
  'x-accel-buffering': 'no',
}

/** The answer to one request: JSON, unless something is said before the reply; then a stream. */
export class DirectAnswer implements Hearer {
  readonly response: Promise<Response>
  readonly #id: RequestId
  readonly #options: DirectAnswerOptions
  readonly #resolve: (response: Response) => void
  #stream: ReadableStreamDefaultController<Uint8Array> | undefined
  #stopKeepAlive = (): void => undefined

  constructor(id: RequestId, options: DirectAnswerOptions) {
    const { promise, resolve } = Promise.withResolvers<Response>()
    this.#id = id
    this.#options = options
    this.response = promise
    this.#resolve = resolve
  }

  said(message: JSONRPCNotification): void {
    if (this.#stream === undefined) this.#open()
    this.#write(message)
  }

  replied(outcome: RpcOutcome): void {
    const message = respond(this.#id, outcome)
    if (this.#stream !== undefined) {
      this.#write(message)
      this.#stopKeepAlive()
      this.#stream.close()
      return
    }
    const isMissing = 'error' in outcome && outcome.error['code'] === MISSING_CAPABILITY
    this.#resolve(json(JSON.stringify(message), isMissing ? 400 : 200))
  }

  #open(): void {
    const { gone } = this.#options
    const body = new ReadableStream<Uint8Array>({
      start: (controller) => {
        this.#stream = controller
      },
      cancel: () => {
        this.#stopKeepAlive()
        gone()
      },
    })
    this.#keepAlive()
    this.#resolve(new Response(body, { headers: HEADERS }))
  }

  #keepAlive(): void {
    const { clock, keepAliveMs } = this.#options
    this.#stopKeepAlive = clock.timer(keepAliveMs, () => {
      this.#stream?.enqueue(encoder.encode(': keep-alive\n\n'))
      this.#keepAlive()
    })
  }

  #write(message: object): void {
    this.#stream?.enqueue(encoder.encode(`event: message\ndata: ${JSON.stringify(message)}\n\n`))
  }
}

export interface DirectAnswerOptions {
  readonly clock: Clock
  readonly keepAliveMs: number
  /** Called when the client has hung up. */
  readonly gone: () => void
}

const encoder = new TextEncoder()
