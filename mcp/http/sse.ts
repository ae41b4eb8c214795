import type { Clock } from '../session/clock.ts'
import type { Following, StreamEvent } from '../session/router.ts'
import { SAFE_HEADERS } from './responses.ts'

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
  options: SseOptions,
  stop: AbortController,
): Response {
  const first = `id: ${after}\nretry: ${options.retryMs}\ndata:\n\n`
  return textResponse(first, textsOf(events), options, stop)
}

/**
 * What is to be sent, as it comes, behind what is sent `first`. No more of `texts` is asked for than
 * the client takes; `stop` is aborted when it is over.
 */
export function textResponse(
  first: string,
  texts: AsyncIterable<string>,
  { clock, keepAliveMs, maxBufferedBytes }: Omit<SseOptions, 'retryMs'>,
  stop: AbortController,
): Response {
  const encoder = new TextEncoder()
  let stopKeepAlive = (): void => undefined
  // Settled when the reader has made room, and when nobody waits for that any more.
  let room = Promise.withResolvers<void>()
  let pulls = 0
  stop.signal.addEventListener('abort', () => room.resolve())

  const body = new ReadableStream<Uint8Array>(
    {
      async start(controller) {
        const write = (text: string): void => controller.enqueue(encoder.encode(text))
        const isFull = (): boolean => (controller.desiredSize ?? 0) <= 0
        // What does not fit is in the store: it can wait there.
        const writeInTime = async (text: string): Promise<void> => {
          while (isFull() && !stop.signal.aborted) {
            room = Promise.withResolvers()
            await room.promise
          }
          if (!stop.signal.aborted) write(text)
        }
        const keepAlive = (before = ''): void => {
          stopKeepAlive = clock.timer(keepAliveMs, () => {
            const progress = `${pulls} ${controller.desiredSize}`
            if (!isFull()) write(': keep-alive\n\n')
            else if (progress === before) {
              // Not closed: that would keep what is written for as long as it is not read.
              controller.error(new Error('The client does not read'))
              return stop.abort()
            }
            keepAlive(progress)
          })
        }
        write(first)
        keepAlive()
        // A stream that can't be followed any more ends here; its client comes back for the rest.
        const forwarded = forward(texts, writeInTime).catch(() => undefined)
        void forwarded.finally(() => {
          stopKeepAlive()
          stop.abort()
          close(controller)
        })
      },
      pull() {
        pulls++
        room.resolve()
      },
      cancel() {
        stopKeepAlive()
        stop.abort()
      },
    },
    { highWaterMark: maxBufferedBytes, size: (chunk) => chunk?.byteLength ?? 0 },
  )
  return new Response(body, { headers: SSE_HEADERS })
}

export const SSE_HEADERS = {
  'content-type': 'text/event-stream',
  ...SAFE_HEADERS,
  'cache-control': 'no-store, no-transform',
  // Asks nginx and its kind not to hold events back.
  'x-accel-buffering': 'no',
}

async function* textsOf(events: AsyncIterable<StreamEvent>): AsyncGenerator<string> {
  for await (const event of events) {
    switch (event.kind) {
      case 'event':
        yield `id: ${event.id}\nevent: message\ndata: ${event.data}\n\n`
        break
      case 'superseded':
        yield `retry: ${SUPERSEDED_RETRY_MS}\n\n`
    }
  }
}

async function forward(
  texts: AsyncIterable<string>,
  write: (text: string) => Promise<void>,
): Promise<void> {
  for await (const text of texts) await write(text)
}

function close(controller: ReadableStreamDefaultController<Uint8Array>): void {
  try {
    controller.close()
  } catch {
    // The client has closed it already.
  }
}
