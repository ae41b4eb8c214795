import type { RequestId } from '@modelcontextprotocol/server'
import { respond } from '../session/message.ts'
import type { Said } from '../session/stateless-host.ts'
import type { RpcOutcome } from '../session/store.ts'
import { json } from './responses.ts'
import { textResponse, type TextOptions } from './sse.ts'

// The only error of a handler's that has a status of its own: the client can't be asked.
const MISSING_CAPABILITY = -32021

/** The answer to one request: JSON, unless something is said before the reply; then a stream. */
export class DirectAnswer {
  readonly response: Promise<Response>
  readonly #id: RequestId
  readonly #options: DirectAnswerOptions
  readonly #resolve: (response: Response) => void
  /** What is said behind the first. */
  #rest: WritableStreamDefaultWriter<string> | undefined

  constructor(id: RequestId, options: DirectAnswerOptions) {
    const { promise, resolve } = Promise.withResolvers<Response>()
    this.#id = id
    this.#options = options
    this.response = promise
    this.#resolve = resolve
  }

  /** Resolves when the client has room for it; rejects when it has hung up. */
  async say(notification: Said): Promise<void> {
    const text = eventOf({ jsonrpc: '2.0', ...notification })
    if (this.#rest === undefined) this.#open(text)
    else await this.#rest.write(text)
  }

  replied(outcome: RpcOutcome): void {
    const message = respond(this.#id, outcome)
    if (this.#rest !== undefined) return this.#end(eventOf(message), this.#rest)
    const isMissing = 'error' in outcome && outcome.error['code'] === MISSING_CAPABILITY
    this.#resolve(json(JSON.stringify(message), isMissing ? 400 : 200))
  }

  #open(first: string): void {
    const { readable, writable } = new TransformStream<string, string>()
    this.#rest = writable.getWriter()
    const texts = { first, rest: readable, textOf: (text: string) => text }
    this.#resolve(textResponse(texts, this.#options, this.#options.stop))
  }

  #end(last: string, rest: WritableStreamDefaultWriter<string>): void {
    // Who has hung up is told nothing.
    rest.write(last).catch(() => undefined)
    rest.close().catch(() => undefined)
  }
}

export interface DirectAnswerOptions extends TextOptions {
  /** Aborted when the client has hung up, or reads nothing of what it was told; and when it has all. */
  readonly stop: AbortController
}

function eventOf(message: object): string {
  return `event: message\ndata: ${JSON.stringify(message)}\n\n`
}
