import {
  isJSONRPCRequest,
  StreamableHTTPClientTransport,
  type JSONRPCMessage,
  type JSONRPCRequest,
  type RequestId,
  type StreamableHTTPClientTransportOptions,
} from '@modelcontextprotocol/client'
import { ResilientFetch } from './resilient-fetch.ts'
import { RETRY_DEFAULTS, type RetryOptions } from './retry.ts'
import { KEY, Session } from './session.ts'

export interface ResilientOptions extends Partial<RetryOptions> {
  /** For the official transport; its own `reconnectionOptions` come after ours. */
  readonly transport?: StreamableHTTPClientTransportOptions
}

type SendOptions = Parameters<StreamableHTTPClientTransport['send']>[1]

interface Call {
  readonly stop: AbortController
  readonly over: PromiseWithResolvers<void>
}

/**
 * The official transport, with calls that outlive failures. It names each tool call with one key,
 * the same for all attempts, and `send` fails with the call, not only until the answer has begun.
 */
export class ResilientTransport extends StreamableHTTPClientTransport {
  readonly #calls: Map<RequestId, Call>
  readonly #session: Session
  readonly #closed: AbortController

  /** `urls` lead to the same service. The first is used until it fails, then the next. */
  constructor(urls: string | readonly string[], { transport, ...retry }: ResilientOptions = {}) {
    const options = { ...RETRY_DEFAULTS, ...retry }
    const [first, ...others] = [urls].flat().map((url) => new URL(url).href)
    if (first === undefined) throw new TypeError('Cannot make transport: there is no URL')
    const calls = new Map<RequestId, Call>()
    const session = new Session(transport?.sessionId, options.onEvent)
    const closed = new AbortController()
    const resilient = new ResilientFetch({
      ...options,
      urls: [first, ...others],
      session,
      fetch: transport?.fetch ?? ((url, init) => fetch(url, init)),
      signal: closed.signal,
      onOver: (id, error) => settle(calls.get(id), error),
    })
    super(new URL(first), { ...transport, fetch: (url, init) => resilient.fetch(url, init) })
    this.#calls = calls
    this.#session = session
    this.#closed = closed
  }

  /** The id of the session the client is in; another one after a session was lost. */
  override get sessionId(): string | undefined {
    return super.sessionId && this.#session.id
  }

  override async send(message: JSONRPCMessage, options?: SendOptions): Promise<void> {
    if (!isJSONRPCRequest(message) || options?.resumptionToken !== undefined) {
      this.#stopIfCancelled(message)
      return super.send(message, options)
    }
    const { id } = message
    const call: Call = { stop: new AbortController(), over: Promise.withResolvers() }
    this.#calls.set(id, call)
    const signals = [call.stop.signal, options?.requestSignal].filter(
      (signal) => signal !== undefined,
    )
    const requestSignal = AbortSignal.any(signals)
    try {
      await Promise.all([
        super.send(keyed(message), { ...options, requestSignal }),
        call.over.promise,
      ])
    } finally {
      this.#calls.delete(id)
    }
  }

  override async close(): Promise<void> {
    this.#closed.abort()
    await super.close()
  }

  /** A call that nobody waits for is not tried again. */
  #stopIfCancelled(message: JSONRPCMessage): void {
    if (!('method' in message) || message.method !== 'notifications/cancelled') return
    const id = message.params?.['requestId'] as RequestId
    this.#calls.get(id)?.stop.abort()
  }
}

/** Ends `call` for its caller. The SDK is kept from resuming one that has failed for good. */
function settle(call: Call | undefined, error: unknown): void {
  if (error === undefined) return call?.over.resolve()
  call?.stop.abort(error)
  call?.over.reject(error)
}

/** A caller's own key is kept: it may have been used before. */
function keyed(message: JSONRPCRequest): JSONRPCRequest {
  const { method, params } = message
  const own = params?._meta?.[KEY] ?? params?.['idempotencyKey']
  if (method !== 'tools/call' || own !== undefined) return message
  const _meta = { ...params?._meta, [KEY]: crypto.randomUUID() }
  return { ...message, params: { ...params, _meta } }
}
