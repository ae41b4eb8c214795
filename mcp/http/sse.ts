import type { Clock } from '../session/clock.ts'
import type { Following, StreamEvent } from '../session/router.ts'
import { SAFE_HEADERS, unread } from './responses.ts'

export interface SseOptions {
  readonly clock: Clock
  /** How long a client waits before it resumes a broken stream. */
  readonly retryMs: number
  /** A comment goes out this often, so that no proxy takes a quiet stream for a dead one. */
  readonly keepAliveMs: number
  readonly maxBufferedBytes: number
}

// A client whose stream was taken over is either gone or shares its session with another one;
// those two would take it from each other for ever.
const SUPERSEDED_RETRY_MS = 60_000

/**
 * A stream of events as a response. It begins with a priming event: its id lets the client resume
 * before anything was said, and its `data` is empty, so that nothing is there to be parsed.
 */
export function streamResponse(
  { after, events }: Following & { kind: 'following' },
  options: SseOptions & Pick<TextOptions, 'headers'>,
  stop: AbortController,
): Response {
  const first = `id: ${after}\nretry: ${options.retryMs}\ndata:\n\n`
  return textResponse({ first, rest: events, textOf }, options, stop)
}

export interface Texts<T> {
  readonly first: string
  readonly rest: AsyncIterable<T>
  readonly textOf: (part: T) => string
}

export interface TextOptions extends Omit<SseOptions, 'retryMs'> {
  readonly headers?: Readonly<Record<string, string>>
}

/**
 * What is to be sent, as it comes, behind what is sent first. No more is asked for than the client
 * takes; `stop` is aborted when it is over.
 */
export function textResponse<T>(
  texts: Texts<T>,
  options: TextOptions,
  stop: AbortController,
): Response {
  const room = { highWaterMark: options.maxBufferedBytes, size: sizeOf }
  const body = new ReadableStream(new TextSource(texts, options, stop), room)
  // All at once: headers that are set later make a response that costs more to hold.
  return new Response(body, { headers: { ...SSE_HEADERS, ...options.headers } })
}

const SSE_HEADERS = {
  'content-type': 'text/event-stream',
  ...SAFE_HEADERS,
  'cache-control': 'no-store, no-transform',
  // Asks nginx and its kind not to hold events back.
  'x-accel-buffering': 'no',
}

/** Many streams are open and quiet: each is this, and little more. */
class TextSource<T> {
  readonly #texts: Texts<T>
  readonly #options: TextOptions
  readonly #stop: AbortController
  #controller: ReadableStreamDefaultController<Uint8Array> | undefined
  #stopKeepAlive = (): void => undefined
  /** Called when the reader has made room, and when nobody waits for that any more. */
  #goOn = (): void => undefined
  #pulls = 0

  constructor(texts: Texts<T>, options: TextOptions, stop: AbortController) {
    this.#texts = texts
    this.#options = options
    this.#stop = stop
  }

  start(controller: ReadableStreamDefaultController<Uint8Array>): void {
    this.#controller = controller
    this.#stop.signal.addEventListener('abort', () => this.#goOn())
    this.#write(this.#texts.first)
    this.#keepAlive()
    void this.#forward()
  }

  pull(): void {
    this.#pulls++
    this.#goOn()
  }

  cancel(): void {
    this.#stopKeepAlive()
    this.#stop.abort()
  }

  async #forward(): Promise<void> {
    const { rest, textOf: toText } = this.#texts
    const { signal } = this.#stop
    try {
      for await (const part of rest) {
        // What does not fit is in the store: it can wait there.
        while (this.#isFull && !signal.aborted) {
          await new Promise<void>((resolve) => (this.#goOn = resolve))
        }
        if (signal.aborted) return
        this.#write(toText(part))
      }
    } catch {
      // One that can't be followed any more ends here; its client comes back for the rest.
    } finally {
      this.#end()
    }
  }

  #keepAlive(before = ''): void {
    const { clock, keepAliveMs } = this.#options
    this.#stopKeepAlive = clock.timer(keepAliveMs, () => {
      const progress = `${this.#pulls} ${this.#controller?.desiredSize}`
      if (!this.#isFull) this.#write(': keep-alive\n\n')
      else if (progress === before) {
        // Not closed: that would keep what is written for as long as it is not read.
        this.#controller?.error(unread())
        return this.#stop.abort()
      }
      this.#keepAlive(progress)
    })
  }

  get #isFull(): boolean {
    return (this.#controller?.desiredSize ?? 0) <= 0
  }

  #write(text: string): void {
    this.#controller?.enqueue(encoder.encode(text))
  }

  #end(): void {
    this.#stopKeepAlive()
    this.#stop.abort()
    try {
      this.#controller?.close()
    } catch {
      // The client has closed it already.
    }
  }
}

const encoder = new TextEncoder()

function sizeOf(chunk: Uint8Array | undefined): number {
  return chunk?.byteLength ?? 0
}

function textOf(event: StreamEvent): string {
  if (event.kind === 'superseded') return `retry: ${SUPERSEDED_RETRY_MS}\n\n`
  return `id: ${event.id}\nevent: message\ndata: ${event.data}\n\n`
}
