import type { Message } from './session.ts'

/** One request of the SDK's, which may take several attempts. */
export interface Ask {
  readonly init: RequestInit
  readonly method: string
  /** What the request is called in events and errors. */
  readonly name: string
  readonly headers: Headers
  readonly body: string | undefined
  readonly message: Message
  readonly signal: AbortSignal
  /** The only session it may go to; '' for none. Without it: the one the client is in. */
  readonly session?: string
}

export interface Place {
  readonly session: string | undefined
  readonly lastEventId: string | null
}

export function parseAsk(init: RequestInit): Ask {
  const method = init.method ?? 'GET'
  const body = typeof init.body === 'string' ? init.body : undefined
  const message = parseMessage(body ?? '') ?? {}
  const name = message.method ?? `${method} request`
  const signal = init.signal ?? new AbortController().signal
  return { init, method, name, headers: new Headers(init.headers), body, message, signal }
}

/** An ask of our own for `session`, with the credentials of `ask`. */
export function askInstead(ask: Ask, message: Message, session: string, signal: AbortSignal): Ask {
  const headers = new Headers(ask.headers)
  for (const name of ['mcp-session-id', 'last-event-id']) headers.delete(name)
  if (message.method === 'initialize') headers.delete('mcp-protocol-version')
  headers.set('content-type', 'application/json')
  headers.set('accept', 'application/json, text/event-stream')
  const body = JSON.stringify({ jsonrpc: '2.0', ...message })
  const name = message.method ?? ''
  return { init: ask.init, method: 'POST', name, headers, body, message, signal, session }
}

export function initFor(ask: Ask, { session, lastEventId }: Place): RequestInit {
  const headers = new Headers(ask.headers)
  if (session) headers.set('mcp-session-id', session)
  if (ask.message.method === 'initialize') headers.delete('mcp-session-id')
  headers.delete('last-event-id')
  if (lastEventId === null)
    return { ...ask.init, method: ask.method, headers, body: ask.body ?? null }
  headers.delete('content-type')
  headers.set('accept', 'text/event-stream')
  headers.set('last-event-id', lastEventId)
  return { ...ask.init, method: 'GET', headers, body: null }
}

/** The response with its body in hand, so that a body that breaks is an attempt that failed. */
export async function whole(response: Response): Promise<Response> {
  if (response.body === null) return response
  const { status, statusText, headers } = response
  return new Response((await response.text()) || null, { status, statusText, headers })
}

export function parseMessage(text: string): Message | undefined {
  try {
    const parsed: unknown = JSON.parse(text)
    return typeof parsed === 'object' && parsed !== null ? parsed : undefined
  } catch {
    return undefined
  }
}
