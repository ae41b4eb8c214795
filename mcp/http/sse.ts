import type { Clock } from '../session/clock.ts'
import type { Following } from '../session/router.ts'
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
  const { clock, retryMs, keepAliveMs, maxBufferedBytes } = options
  const encoder = new TextEncoder()
  let stopKeepAlive = (): void => undefined

  const body = new ReadableStream<Uint8Array>(
    {
      async start(controller) {
        // Not closed: that would keep what is written for as long as it is not read.
        const cut = (): void => {
          stop.abort()
          controller.error(new Error('The client reads too slowly'))
        }
        const write = (text: string): void => {
          if (stop.signal.aborted) return
          if ((controller.desiredSize ?? 0) <= 0) cut()
          else controller.enqueue(encoder.encode(text))
        }
        const keepAlive = (before = 0): void => {
          stopKeepAlive = clock.timer(keepAliveMs, () => {
            const waiting = maxBufferedBytes - (controller.desiredSize ?? 0)
            // Who has read nothing since the last time, though there is something, does not read.
            if (before > 0 && waiting >= before) return cut()
            write(': keep-alive\n\n')
            keepAlive(waiting)
          })
        }
        write(`id: ${after}\nretry: ${retryMs}\ndata:\n\n`)
        keepAlive()
        // A stream that can't be followed any more ends here; its client comes back for the rest.
        const forwarded = forward(events, write).catch(() => undefined)
        void forwarded.finally(() => {
          stopKeepAlive()
          stop.abort()
          close(controller)
        })
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

type Events = (Following & { kind: 'following' })['events']

async function forward(events: Events, write: (text: string) => void): Promise<void> {
  for await (const event of events) {
    switch (event.kind) {
      case 'event':
        write(`id: ${event.id}\nevent: message\ndata: ${event.data}\n\n`)
        break
      case 'superseded':
        write(`retry: ${SUPERSEDED_RETRY_MS}\n\n`)
    }
  }
}

function close(controller: ReadableStreamDefaultController<Uint8Array>): void {
  try {
    controller.close()
  } catch {
    // The client has closed it already.
  }
}
