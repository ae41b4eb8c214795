/** Connections that are held open, by hand: a client library would be too polite. */
import { connect, type Socket } from 'node:net'
import { bytesOf } from './raw.ts'
import { bare, INCREMENT, toSession } from './inputs.ts'

export interface Held {
  readonly socket: Socket
  /** The HTTP status, once there was one. */
  readonly status: () => number | undefined
  /** Whether a stream has ended, or the connection. */
  readonly isOver: () => boolean
  readonly release: () => void
}

const BYTE_EVERY_MS = 1000
const BATCH = 25
const BATCH_EVERY_MS = 20

/** Opens one after the other in small batches, as fast as a machine that must also measure can. */
export async function holdAll(opens: readonly (() => Held)[]): Promise<readonly Held[]> {
  const held: Held[] = []
  for (let at = 0; at < opens.length; at += BATCH) {
    held.push(...opens.slice(at, at + BATCH).map((open) => open()))
    await new Promise((resolve) => setTimeout(resolve, BATCH_EVERY_MS))
  }
  return held
}

/** A head that never ends, a byte of it each second. */
export function slowHead(port: number): Held {
  return dripping(port, Buffer.from('POST /mcp HTTP/1.1\r\nhost: localhost\r\nx-slow: '))
}

/** A body that never ends, a byte of it each second. */
export function slowBody(port: number, session: string): Held {
  const whole = bytesOf(toSession(session, { body: INCREMENT.padEnd(1000) }))
  return dripping(port, whole.subarray(0, whole.length - 900))
}

/** The standalone stream of `session`, behind `lastEventId` if there is one. */
export function openStream(port: number, session: string, lastEventId?: string): Held {
  const headers = lastEventId === undefined ? {} : { 'last-event-id': lastEventId }
  return hold(port, bare('GET', headers)({ own: session }))
}

function dripping(port: number, bytes: Uint8Array): Held {
  const held = hold(port, bytes)
  const drip = setInterval(() => held.socket.write('x'), BYTE_EVERY_MS)
  held.socket.once('close', () => clearInterval(drip))
  return held
}

function hold(port: number, bytes: Uint8Array): Held {
  const socket = connect({ port, host: 'localhost' })
  let status: number | undefined
  let over = false
  socket.write(bytes)
  socket.once('data', (chunk) => {
    status = Number(/^HTTP\/1\.1 (\d+)/.exec(chunk.toString('latin1'))?.[1])
  })
  socket.on('data', (chunk) => (over ||= chunk.includes('\r\n0\r\n\r\n')))
  socket.on('error', () => undefined)
  socket.once('close', () => (over = true))
  return { socket, status: () => status, isOver: () => over, release: () => socket.destroy() }
}

/** How often each status came; 0 is none yet. */
export function countsOf(statuses: readonly (number | undefined)[]): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const status of statuses) counts[status ?? 0] = (counts[status ?? 0] ?? 0) + 1
  return counts
}
