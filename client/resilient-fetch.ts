import type { FetchLike } from '@modelcontextprotocol/client'
import { askInstead, initFor, parseAsk, parseMessage, whole, type Ask, type Place } from './ask.ts'
import { Attempts, ClientError, retryAfterMs, type Failure, type RetryOptions } from './retry.ts'
import type { Message, Send, Session } from './session.ts'
import { encodeEvent, isStream, readEvents, type SseEvent } from './sse.ts'

export interface ResilientFetchOptions extends RetryOptions {
  readonly urls: readonly [string, ...string[]]
  readonly session: Session
  readonly fetch: FetchLike
  /** Aborted when the transport closes. */
  readonly signal: AbortSignal
  /** Called when request `id` is over: answered whole, or failed for good. */
  readonly onOver: (id: string | number, error?: unknown) => void
}

const RETRYABLE = new Set([408, 425, 429, 502, 503, 504])
/** Not a refusal of this request alone: the server is away, another may be there. */
const AWAY = new Set([502, 503, 504])
/** Left to the SDK, which can get another token. */
const UNAUTHORIZED = new Set([401, 403])
/** A standalone stream that is closed at once is not asked for more often than this. */
const STANDALONE_RETRY_MS = 1000
const SEEN_IDS = 1024

/**
 * A `fetch` for the official transport that hides what can be hidden: attempts that fail, servers
 * that are away, sessions that are lost, and streams that break. What it cannot hide, it throws.
 */
export class ResilientFetch {
  readonly #options: ResilientFetchOptions
  #at = 0

  constructor(options: ResilientFetchOptions) {
    this.#options = options
  }

  async fetch(input: string | URL, init: RequestInit = {}): Promise<Response> {
    const { urls, fetch, session } = this.#options
    // Not for the MCP endpoint: the SDK asks for a token, or follows a redirect.
    if (String(input) !== urls[0]) return fetch(input, init)
    const ask = parseAsk(init)
    if (ask.method === 'DELETE') session.end()
    const attempts = new Attempts(this.#options, { endless: ask.method === 'GET' })
    const response = await this.#answer(ask, attempts, ask.headers.get('last-event-id'))
    if (response.ok && isStream(response)) return this.#unbroken(ask, response, attempts)
    if (!UNAUTHORIZED.has(response.status)) this.#over(ask)
    return response
  }

  /** Asks until there is an answer that another attempt would not change. */
  async #answer(ask: Ask, attempts: Attempts, after: string | null = null): Promise<Response> {
    const { session } = this.#options
    for (let replaced = false, lastEventId = after; ;) {
      const id = ask.session ?? session.id ?? ask.headers.get('mcp-session-id') ?? undefined
      const outcome = await this.#attempt(ask, attempts, { session: id, lastEventId })
      switch (outcome.kind) {
        case 'answered': {
          const { response } = outcome
          const lost = response.status === 404 && ask.session === undefined && !replaced
          if (!lost || !session.isReplaceable(id)) return this.#noted(ask, response)
          replaced = true
          lastEventId = null
          await session.replace(id, (message, to) => this.#send(ask, message, to))
          break
        }
        case 'unavailable':
          await attempts.wait(ask.name, outcome, ask.signal)
      }
    }
  }

  async #attempt(ask: Ask, attempts: Attempts, place: Place): Promise<Outcome> {
    const { clock, deadlineMs, fetch, urls } = this.#options
    const url = urls[this.#at] ?? urls[0]
    const init = initFor(ask, place)
    const limit = new AbortController()
    // A server that hangs leaves time to try each other one.
    const limitMs = Math.min(deadlineMs / urls.length, attempts.leftMs())
    const stop = clock.timer(limitMs, () => limit.abort())
    try {
      const signal = AbortSignal.any([ask.signal, limit.signal])
      const response = await fetch(url, { ...init, signal })
      if (!RETRYABLE.has(response.status)) {
        return { kind: 'answered', response: isStream(response) ? response : await whole(response) }
      }
      await response.body?.cancel()
      if (AWAY.has(response.status)) this.#failOver(url)
      attempts.rest(url, retryAfterMs(response, clock))
      const why = `HTTP ${response.status} from ${url}`
      return { kind: 'unavailable', why, afterMs: attempts.restMs(urls[this.#at] ?? url) }
    } catch (error) {
      ask.signal.throwIfAborted()
      const hung = limit.signal.aborted
      if (!hung && !isNetworkError(error)) throw error
      this.#failOver(url)
      const why = `${hung ? `no answer in ${limitMs} ms` : describe(error)} from ${url}`
      return { kind: 'unavailable', why, afterMs: 0, error }
    } finally {
      stop()
    }
  }

  #failOver(from: string): void {
    const { urls, onEvent } = this.#options
    if (urls.length === 1 || urls[this.#at] !== from) return
    this.#at = (this.#at + 1) % urls.length
    onEvent({ event: 'failed_over', from, to: urls[this.#at] ?? from })
  }

  /** `first`, and what comes after it on other streams should it break, as one. */
  #unbroken(ask: Ask, first: Response, attempts: Attempts): Response {
    const events = this.#events(ask, first, attempts)
    const body = new ReadableStream<Uint8Array>({
      pull: async (controller) => {
        try {
          const next = await events.next()
          if (!next.done) return controller.enqueue(encodeEvent(next.value))
          this.#over(ask)
          controller.close()
        } catch (error) {
          this.#over(ask, error)
          controller.error(error)
        }
      },
      cancel: async () => void (await events.return(undefined)),
    })
    return new Response(body, { status: first.status, headers: first.headers })
  }

  /** Each event once, up to the reply. */
  async *#events(ask: Ask, first: Response, attempts: Attempts): AsyncGenerator<SseEvent> {
    const seen = new Set<string>()
    let lastEventId: string | null = null
    let afterMs = ask.method === 'GET' ? STANDALONE_RETRY_MS : 0
    for (let response = first; ;) {
      let why = 'the stream ended before its reply'
      try {
        for await (const event of readEvents(response.body ?? new ReadableStream())) {
          lastEventId = event.id ?? lastEventId
          afterMs = event.retryMs ?? afterMs
          if (event.data === '' ? event.id === undefined : isRepeated(event, seen)) continue
          if (event.data !== '') attempts.progressed()
          yield event
          if (isReply(event.data)) return
        }
      } catch (error) {
        ask.signal.throwIfAborted()
        why = describe(error)
      }
      attempts.restart()
      await attempts.wait(ask.name, { why, afterMs }, ask.signal)
      response = await this.#resume(ask, attempts, lastEventId)
      if (response.ok && isStream(response)) continue
      if (response.ok && ask.method === 'POST') return yield { data: await response.text() }
      if (ask.method === 'GET' || UNAUTHORIZED.has(response.status)) return
      throw new ClientError('call_lost', `Cannot finish ${ask.name}: HTTP ${response.status}`)
    }
  }

  /** The rest of a stream. Where that cannot be had, the request is sent again, under its key. */
  async #resume(ask: Ask, attempts: Attempts, lastEventId: string | null): Promise<Response> {
    const { onEvent } = this.#options
    const resumed = await this.#answer(ask, attempts, lastEventId)
    const refused = !resumed.ok && !UNAUTHORIZED.has(resumed.status)
    const again = refused && lastEventId !== null
    const response = again ? await this.#answer(ask, attempts) : resumed
    const from = again ? undefined : (lastEventId ?? undefined)
    if (response.ok) onEvent({ event: 'stream_resumed', method: ask.name, lastEventId: from })
    return response
  }

  /** Sends a message of our own, with what `ask` was authorized by. */
  async #send(ask: Ask, message: Message, session: string | undefined): ReturnType<Send> {
    const own = askInstead(ask, message, session ?? '', this.#options.signal)
    const attempts = new Attempts(this.#options, { endless: false })
    const response = await this.#answer(own, attempts)
    const id = response.headers.get('mcp-session-id') ?? session
    if (!isStream(response)) return { reply: parseMessage(await response.text()), session: id }
    let last: SseEvent = { data: '' }
    for await (const event of this.#events(own, response, attempts)) last = event
    return { reply: parseMessage(last.data), session: id }
  }

  #noted(ask: Ask, response: Response): Response {
    const { session } = this.#options
    // It has ended, perhaps by an attempt whose answer was lost.
    if (ask.method === 'DELETE' && response.status === 404) return new Response(null)
    if (response.ok && ask.session === undefined) session.note(ask.message, response)
    return response
  }

  #over({ message }: Ask, error?: unknown): void {
    if (message.id !== undefined && message.method !== undefined) {
      this.#options.onOver(message.id, error)
    }
  }
}

type Outcome =
  | { readonly kind: 'answered'; readonly response: Response }
  | ({ readonly kind: 'unavailable' } & Failure)

/** True if an event of this id was there before; without an id nobody can say. */
function isRepeated({ id }: SseEvent, seen: Set<string>): boolean {
  if (id === undefined) return false
  if (seen.has(id)) return true
  const [oldest] = seen.add(id)
  if (seen.size > SEEN_IDS && oldest !== undefined) seen.delete(oldest)
  return false
}

function isReply(data: string): boolean {
  const message = parseMessage(data)
  return message !== undefined && (message.result ?? message.error) !== undefined
}

/** By the standard `fetch` throws a TypeError for these; workerd marks them instead. */
function isNetworkError(error: unknown): boolean {
  return error instanceof TypeError || (error as { retryable?: unknown }).retryable === true
}

/** The message of an error, and of what caused it: undici says no more than "fetch failed". */
function describe(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const { cause } = error
  if (!(cause instanceof Error)) return error.message
  const { code = cause.message }: { code?: string } = cause as { code?: string }
  return `${error.message} (${code})`
}
