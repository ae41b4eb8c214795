/** Clients by hand: cheap, so that the machine is the servers', and with nothing that they do by themselves. */
import { connect, type Socket } from 'node:net'

export interface Answer {
  readonly status: number
  readonly tookMs: number
  /** What the server has asked for; `undefined`: nothing. */
  readonly retryAfterMs: number | undefined
  /** The call took so long that a stream was opened for it. */
  readonly isStream: boolean
}

const HEAD_END = '\r\n\r\n'

/** One connection, with one call at a time. */
export class Connection {
  readonly #port: number
  #socket: Socket | undefined

  constructor(url: string) {
    this.#port = Number(new URL(url).port)
  }

  /** Raises the counter of `session`. Throws if the connection breaks: who knows what came of it. */
  async call(session: string): Promise<Answer> {
    const began = performance.now()
    const socket = (this.#socket ??= this.#open())
    const { promise, resolve, reject } = Promise.withResolvers<string>()
    let text = ''
    const take = (chunk: string): void => {
      text += chunk
      if (isWhole(text)) resolve(text)
    }
    const fail = (): void => reject(new Error('the connection has broken'))
    socket.on('data', take).once('close', fail)
    socket.write(requestTo(session))
    try {
      return answerOf(await promise, performance.now() - began)
    } finally {
      socket.off('data', take).off('close', fail)
      if (/^connection: close/im.test(text)) this.close()
    }
  }

  close(): void {
    this.#socket?.destroy()
    this.#socket = undefined
  }

  #open(): Socket {
    const socket = connect({ port: this.#port, host: '127.0.0.1', noDelay: true })
    socket.setEncoding('latin1')
    socket.on('error', () => undefined)
    socket.once('close', () => {
      if (this.#socket === socket) this.#socket = undefined
    })
    return socket
  }
}

function isWhole(text: string): boolean {
  const end = text.indexOf(HEAD_END)
  if (end < 0) return false
  const [, length] = /\r\ncontent-length: (\d+)/i.exec(text.slice(0, end + 2)) ?? []
  if (length === undefined) return text.endsWith('\r\n0\r\n\r\n')
  return text.length >= end + HEAD_END.length + Number(length)
}

function answerOf(text: string, tookMs: number): Answer {
  const head = text.slice(0, text.indexOf(HEAD_END))
  const [, seconds] = /\r\nretry-after: (\d+)/i.exec(head) ?? []
  return {
    status: Number(/^HTTP\/1\.1 (\d+)/.exec(head)?.[1]),
    tookMs,
    retryAfterMs: seconds === undefined ? undefined : Number(seconds) * 1000,
    isStream: head.includes('text/event-stream'),
  }
}

const CALL = JSON.stringify({
  jsonrpc: '2.0',
  id: 1,
  method: 'tools/call',
  params: { name: 'increment_counter', arguments: {} },
})

function requestTo(session: string): string {
  const lines = [
    'POST /mcp HTTP/1.1',
    'host: localhost',
    'content-type: application/json',
    'accept: application/json, text/event-stream',
    `mcp-session-id: ${session}`,
    'mcp-protocol-version: 2025-11-25',
    `content-length: ${CALL.length}`,
  ]
  return `${lines.join('\r\n')}${HEAD_END}${CALL}`
}
