import { DETACHED, ENDED, SUPERSEDED, unpackEvent } from '../durable-objects/wire.ts'
import type { EventId } from '../mcp/session/ids.ts'
import type { Refused, StreamEvent } from '../mcp/session/router.ts'

export type Connection =
  | { readonly kind: 'connected'; readonly socket: WebSocket; readonly after: EventId }
  | Refused
  | { readonly kind: 'gone' }

export interface FollowOptions {
  readonly reconnect: (lastEventId: EventId) => Promise<Connection>
  readonly reopened: (attempt: number) => void
  /** Waits before another try, longer with each that brought nothing; counted from 0. */
  readonly pause: (attempt: number) => Promise<void>
  readonly signal: AbortSignal
  /** Past so many characters that wait for their reader the rest is left to the object. */
  readonly maxWaiting: number
}

/**
 * The events of an object's stream. When the object is reset, evicted or updated its socket
 * breaks; this opens another one behind the last event, and the client sees no gap.
 */
export async function* followObject(
  first: Connection & { kind: 'connected' },
  { reconnect, reopened, pause, signal, maxWaiting }: FollowOptions,
): AsyncGenerator<StreamEvent> {
  let { after } = first
  let connection: Connection = first
  let fruitless = 0
  for (let attempt = 0; connection.kind === 'connected'; attempt++) {
    if (attempt > 0) reopened(attempt)
    fruitless++
    const messages = listen(connection.socket, signal, maxWaiting)
    for await (const message of messages) {
      if (typeof message === 'number') {
        if (message === SUPERSEDED) yield { kind: 'superseded' }
        if ([SUPERSEDED, ENDED, DETACHED].includes(message) || signal.aborted) return
        break
      }
      const { id, data } = unpackEvent(message)
      after = id as EventId
      fruitless = 0
      yield { kind: 'event', id: after, data }
    }
    if (fruitless > 1) await pause(fruitless - 2)
    if (signal.aborted) return
    connection = await reconnect(after)
  }
}

/** The messages of a socket, and the code with which it was closed as the last one. */
async function* listen(
  socket: WebSocket,
  signal: AbortSignal,
  maxWaiting: number,
): AsyncGenerator<string | number> {
  const waiting: (string | number)[] = []
  let size = 0
  let stopped = false
  let arrived = Promise.withResolvers<void>()
  const push = (message: string | number): void => {
    waiting.push(message)
    arrived.resolve()
  }
  socket.addEventListener('message', ({ data }) => {
    if (size > maxWaiting) stop()
    if (stopped) return
    const message = String(data)
    size += message.length
    push(message)
  })
  socket.addEventListener('close', ({ code }) => push(code))
  socket.addEventListener('error', () => push(1006))
  socket.accept()
  const stop = (): void => {
    if (stopped) return
    stopped = true
    socket.close(1000)
    push(1000)
  }
  if (signal.aborted) stop()
  else signal.addEventListener('abort', stop, { once: true })

  try {
    for (;;) {
      const message = waiting.shift()
      if (message === undefined) {
        await arrived.promise
        arrived = Promise.withResolvers<void>()
        continue
      }
      yield message
      if (typeof message === 'number') return
      size -= message.length
    }
  } finally {
    signal.removeEventListener('abort', stop)
  }
}
