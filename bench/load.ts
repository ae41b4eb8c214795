/** The load of the benches: this one process calls, and counts what each session must answer. */
import { Agent, request as httpRequest } from 'node:http'

export interface Target {
  readonly name: string
  readonly url: URL
  /** A session is in use by one connection at a time. */
  readonly sessions: readonly { readonly id: string; calls: number }[]
  /** How it is called; by the session id, unless said otherwise. */
  readonly call?: typeof call
}

export interface Load {
  readonly connections: number
  readonly seconds: number
}

export interface Loaded {
  readonly latencies: readonly number[]
  readonly tookSeconds: number
}

/** Calls for so many seconds. Throws at the first answer that is not the session's own count. */
export async function load(target: Target, { connections, seconds }: Load): Promise<Loaded> {
  const { sessions, url, name, call: ask = call } = target
  const begun = performance.now()
  const until = begun + seconds * 1000
  const latencies: number[] = []
  await Promise.all(
    Array.from({ length: connections }, async (_, client) => {
      for (let turn = client; performance.now() < until; turn += connections) {
        const session = sessions[turn % sessions.length]
        if (session === undefined) continue
        const sent = performance.now()
        const counter = counterOf(await ask(url, session.id))
        latencies.push(performance.now() - sent)
        if (counter !== ++session.calls) throw new Error(`${name}: counter is off`)
      }
    }),
  )
  const tookSeconds = (performance.now() - begun) / 1000
  // Idle ones are closed by the server in its own time, and that may be when they are used again.
  closeConnections()
  return { latencies, tookSeconds }
}

export async function checkCounters({
  url,
  sessions,
  name,
  call: ask = call,
}: Target): Promise<void> {
  for (const session of sessions) {
    const counter = counterOf(await ask(url, session.id))
    if (counter !== ++session.calls) throw new Error(`${name}: ${counter} of ${session.calls}`)
  }
}

export async function openSession(url: URL): Promise<string> {
  const params = {
    protocolVersion: '2025-11-25',
    capabilities: {},
    clientInfo: { name: 'bench', version: '0' },
  }
  const { headers } = await post(url, { jsonrpc: '2.0', id: 0, method: 'initialize', params })
  const id = String(headers['mcp-session-id'])
  await post(url, { jsonrpc: '2.0', method: 'notifications/initialized' }, id)
  return id
}

export async function call(url: URL, session: string): Promise<string> {
  const params = { name: 'increment_counter', arguments: {} }
  return (await post(url, { jsonrpc: '2.0', id: 1, method: 'tools/call', params }, session)).body
}

/** The same call in the revision without sessions, with the session's id as its handle. */
export async function callByHandle(url: URL, session: string): Promise<string> {
  const name = 'increment_counter'
  const headers = {
    'mcp-protocol-version': STATELESS,
    'mcp-method': 'tools/call',
    'mcp-name': name,
    'mcp-param-session': session,
  }
  const params = { name, arguments: { session }, _meta: ENVELOPE }
  return (await send(url, { jsonrpc: '2.0', id: 1, method: 'tools/call', params }, headers)).body
}

const STATELESS = '2026-07-28'
const ENVELOPE = {
  'io.modelcontextprotocol/protocolVersion': STATELESS,
  'io.modelcontextprotocol/clientCapabilities': {},
  'io.modelcontextprotocol/clientInfo': { name: 'bench', version: '0' },
}

/** The next call opens new ones. */
export function closeConnections(): void {
  agent.destroy()
}

const agent = new Agent({ keepAlive: true, maxSockets: 64 })

/** From the text content, which looks the same in a JSON body and in an SSE event. */
function counterOf(body: string): number {
  return Number(/\\"counter\\":(\d+)/.exec(body)?.[1])
}

function post(url: URL, message: object, session?: string) {
  return send(url, message, {
    ...(session !== undefined && {
      'mcp-session-id': session,
      'mcp-protocol-version': '2025-11-25',
    }),
  })
}

function send(url: URL, message: object, more: Record<string, string>) {
  const body = JSON.stringify(message)
  const headers = {
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(body),
    accept: 'application/json, text/event-stream',
    ...more,
  }
  const { promise, resolve, reject } = Promise.withResolvers<{
    headers: NodeJS.Dict<string | string[]>
    body: string
  }>()
  const request = httpRequest(url, { method: 'POST', agent, headers }, (response) => {
    let text = ''
    response.setEncoding('utf8')
    response.on('data', (chunk: string) => (text += chunk))
    response.on('end', () => {
      if ((response.statusCode ?? 500) < 300) resolve({ headers: response.headers, body: text })
      else reject(new Error(`HTTP ${response.statusCode}: ${text}`))
    })
  })
  request.on('error', reject)
  request.end(body)
  return promise
}
