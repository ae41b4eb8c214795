import type { RequestId } from '@modelcontextprotocol/server'
import type { Clock } from '../session/clock.ts'
import { respond } from '../session/message.ts'
import type { Said } from '../session/stateless-host.ts'
import type { RpcOutcome } from '../session/store.ts'
import { json } from './responses.ts'
import { SSE_HEADERS } from './sse.ts'

// The only error of a handler's that has a status of its own: the client can't be asked.
const MISSING_CAPABILITY = -32021

/** The answer to one request: JSON, unless something is said before the reply; then a stream. */
export class DirectAnswer {
  readonly response: Promise<Response>
  readonly #id: RequestId
  readonly #options: DirectAnswerOptions
  readonly #resolve: (response: Response) => void
  #stream: ReadableStreamDefaultController<Uint8Array> | undefined
  #cut = false
  #stopKeepAlive = (): void => undefined

  constructor(id: RequestId, options: DirectAnswerOptions) {
    const { promise, resolve } = Promise.withResolvers<Response>()
    this.#id = id
    this.#options = options
    this.response = promise
    this.#resolve = resolve
  }

  said(notification: Said): void {
    if (this.#stream === undefined) this.#open()
    this.#write(eventOf({ jsonrpc: '2.0', ...notification }))
  }

  replied(outcome: RpcOutcome): void {
    const message = respond(this.#id, outcome)
    if (this.#stream !== undefined) {
      this.#write(eventOf(message))
      this.#stopKeepAlive()
      if (!this.#cut) this.#stream.close()
      return
    }
    const isMissing = 'error' in outcome && outcome.error['code'] === MISSING_CAPABILITY
    this.#resolve(json(JSON.stringify(message), isMissing ? 400 : 200))
  }

  #open(): void {
    const { gone, maxBufferedBytes } = this.#options
    const body = new ReadableStream<Uint8Array>(
      {
        start: (controller) => {
          this.#stream = controller
        },
        cancel: () => {
          this.#cut = true
          this.#stopKeepAlive()
          gone()
        },
      },
      new ByteLengthQueuingStrategy({ highWaterMark: maxBufferedBytes }),
    )
    this.#keepAlive()
    this.#resolve(new Response(body, { headers: SSE_HEADERS }))
  }

  #keepAlive(): void {
    const { clock, keepAliveMs } = this.#options
    this.#stopKeepAlive = clock.timer(keepAliveMs, () => {
      this.#write(': keep-alive\n\n')
      if (!this.#cut) this.#keepAlive()
    })
  }

  /** Who reads too slowly for too long has as good as hung up. */
  #write(text: string): void {
    if (this.#cut || this.#stream === undefined) return
    if ((this.#stream.desiredSize ?? 0) > 0) return this.#stream.enqueue(encoder.encode(text))
    this.#cut = true
    this.#stopKeepAlive()
    this.#stream.error(new Error('The client reads too slowly'))
    this.#options.gone()
  }
}

export interface DirectAnswerOptions {
  readonly clock: Clock
  readonly keepAliveMs: number
  readonly maxBufferedBytes: number
  /** Called when the client has hung up. */
  readonly gone: () => void
}

function eventOf(message: object): string {
  return `event: message\ndata: ${JSON.stringify(message)}\n\n`
}

const encoder = new TextEncoder()
