import { connect } from 'node:net'

/** An HTTP request in its parts. Nothing is checked or put right: what is told is sent. */
export interface RawRequest {
  readonly method?: string
  readonly target?: string
  /** In their order. A list is sent as several lines; `undefined` leaves out. */
  readonly headers?: Readonly<Record<string, string | readonly string[] | undefined>>
  readonly body?: string | Uint8Array
}

export interface RawAnswer {
  /** 0: the connection was closed without an answer. */
  readonly status: number
  readonly headers: Headers
  readonly body: string
  /** Whether the server has closed the connection, or says that it will. */
  readonly closes: boolean
  /** Whether more came behind the answer: one to a request that was smuggled in. */
  readonly more: boolean
}

/** The bytes of a request. Header lines are Latin-1, as they are on the wire. */
export function bytesOf({ method = 'POST', target = '/mcp', headers = {}, body }: RawRequest) {
  const content = typeof body === 'string' ? Buffer.from(body) : Buffer.from(body ?? '')
  const told = 'content-length' in headers || 'transfer-encoding' in headers || body === undefined
  const all = told ? headers : { ...headers, 'content-length': String(content.length) }
  const lines = Object.entries(all).flatMap(([name, value]) => {
    if (value === undefined) return []
    return (typeof value === 'string' ? [value] : value).map((one) => `${name}: ${one}`)
  })
  const head = [`${method} ${target} HTTP/1.1`, ...lines, '', ''].join('\r\n')
  return Buffer.concat([Buffer.from(head, 'latin1'), content])
}

/** Sends bytes on a connection of its own, and answers what comes back first. */
export async function exchange(port: number, bytes: Uint8Array): Promise<RawAnswer> {
  const { promise, resolve } = Promise.withResolvers<RawAnswer>()
  const socket = connect({ port, host: 'localhost' })
  let received = Buffer.alloc(0)
  const look = (ended: boolean): void => {
    const answer = parseAnswer(received, ended)
    // What is to be closed may say more until it is: the answer to a request that was smuggled in.
    if (answer !== undefined && (ended || !answer.closes)) resolve(answer)
  }
  socket.on('data', (chunk) => {
    received = Buffer.concat([received, chunk])
    look(false)
  })
  // A server that refuses early closes while we still send.
  socket.on('error', () => look(true))
  socket.on('close', () => look(true))
  socket.write(bytes)
  try {
    return await promise
  } finally {
    socket.destroy()
  }
}

/** `undefined` as long as there is more to come. A stream is answered with its head. */
export function parseAnswer(received: Buffer, ended: boolean): RawAnswer | undefined {
  const text = received.toString('latin1')
  const end = text.indexOf('\r\n\r\n')
  if (end < 0) {
    if (!ended) return undefined
    return { status: 0, headers: new Headers(), body: text, closes: true, more: false }
  }
  const [first = '', ...lines] = text.slice(0, end).split('\r\n')
  const status = Number(/^HTTP\/1\.[01] (\d{3})/.exec(first)?.[1])
  const headers = new Headers(
    lines.map((line): [string, string] => {
      const colon = line.indexOf(':')
      return [line.slice(0, colon), line.slice(colon + 1).trim()]
    }),
  )
  const rest = received.subarray(end + 4)
  // "Go on, send your body" is no answer yet.
  if (status === 100) return parseAnswer(rest, ended)
  const body = bodyOf(rest, headers, status, ended)
  if (body === undefined) return undefined
  const closes = ended || headers.get('connection')?.toLowerCase() === 'close'
  return { status, headers, closes, body: body.text, more: body.length < rest.length }
}

interface Body {
  readonly text: string
  /** How many bytes it took on the wire. */
  readonly length: number
}

function bodyOf(rest: Buffer, headers: Headers, status: number, ended: boolean): Body | undefined {
  if (headers.get('content-type') === 'text/event-stream') return { text: '', length: rest.length }
  if (headers.get('transfer-encoding') === 'chunked') return chunksOf(rest)
  const told = headers.get('content-length')
  const bare = status === 204 || status === 304
  const length = bare ? 0 : told === null ? rest.length : Number(told)
  if (!bare && told === null ? !ended : rest.length < length) return undefined
  return { text: rest.subarray(0, length).toString(), length }
}

function chunksOf(rest: Buffer): Body | undefined {
  const parts: Buffer[] = []
  for (let at = 0; ;) {
    const end = rest.indexOf('\r\n', at)
    if (end < 0) return undefined
    const size = parseInt(rest.subarray(at, end).toString(), 16)
    const next = end + 2 + size + 2
    if (next > rest.length) return undefined
    if (size === 0) return { text: Buffer.concat(parts).toString(), length: next }
    parts.push(rest.subarray(end + 2, end + 2 + size))
    at = next
  }
}
