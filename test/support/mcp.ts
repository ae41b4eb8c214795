/** The least of a client: says one thing, hands back what came. */
export type Fetch = (request: Request) => Promise<Response>

export const BASE = 'http://localhost'
const REVISION = '2025-11-25'

export interface RpcReply {
  readonly id?: unknown
  readonly result?: ToolResult & Record<string, unknown>
  readonly error?: { code: number; message: string; data?: { type?: string } }
}

interface ToolResult {
  readonly isError?: boolean
  readonly structuredContent?: Record<string, unknown>
  readonly content?: { text: string }[]
}

export const initialize = {
  jsonrpc: '2.0',
  id: 0,
  method: 'initialize',
  params: {
    protocolVersion: REVISION,
    capabilities: { elicitation: {} },
    clientInfo: { name: 'test', version: '0' },
  },
} as const

/** What a session lists, in its order. */
export const TOOL_NAMES = [
  'increment_counter',
  'get_counter',
  'add_note',
  'list_notes',
  'get_server_info',
  'resume_session',
  'analyze_data',
  'get_status',
  'watch_counter',
  'clear_notes',
] as const

/** Level and text of what an analysis of three items logs, in its order. */
export function analysisLogs(instance: string): [level: string, text: string][] {
  return [
    ['info', `Starting analysis of 3 items on ${instance}`],
    ['debug', 'Phase 1: Input validation'],
    ['debug', 'Processing item 1'],
    ['debug', 'Processing item 2'],
    ['debug', 'Processing item 3'],
    ['info', 'Aggregating results'],
    ['info', 'Analysis complete: processed 3 items, total score=9.0'],
  ]
}

/** Progress, total and text of what it tells between. */
export const ANALYSIS_PROGRESS = [
  [0, 3, 'Validating input data'],
  [1, 3, 'Processing item 1/3'],
  [2, 3, 'Processing item 2/3'],
  [3, 3, 'Processing item 3/3'],
] as const

export const POST_HEADERS = {
  'content-type': 'application/json',
  accept: 'application/json, text/event-stream',
  host: 'localhost',
}

export function post(body: BodyInit, headers: HeadersInit = {}): Request {
  const all = new Headers(POST_HEADERS)
  for (const [name, value] of new Headers(headers)) {
    if (value === '') all.delete(name)
    else all.set(name, value)
  }
  const streamed = body instanceof ReadableStream ? { duplex: 'half' } : {}
  return new Request(`${BASE}/mcp`, { method: 'POST', headers: all, body, ...streamed })
}

export function send(fetch: Fetch, session: string, message: object): Promise<Response> {
  return fetch(post(JSON.stringify(message), { 'mcp-session-id': session }))
}

export async function endSession(fetch: Fetch, session: string): Promise<void> {
  const headers = { 'mcp-session-id': session }
  const { status } = await fetch(new Request(`${BASE}/mcp`, { method: 'DELETE', headers }))
  if (status !== 200) throw new Error(`DELETE failed: HTTP ${status}`)
}

export async function openSession(
  fetch: Fetch,
  clientInfo: { name: string; version: string } = initialize.params.clientInfo,
): Promise<string> {
  const params = { ...initialize.params, clientInfo }
  const response = await fetch(post(JSON.stringify({ ...initialize, params })))
  const session = response.headers.get('mcp-session-id')
  await response.text()
  if (session === null) throw new Error(`No session: HTTP ${response.status}`)
  await (await send(fetch, session, { jsonrpc: '2.0', method: 'notifications/initialized' })).text()
  return session
}

export function toolCall(name: string, args: object = {}, id: number | string = 1): object {
  return { jsonrpc: '2.0', id, method: 'tools/call', params: { name, arguments: args } }
}

/** Calls a tool and waits for its result, be it JSON or the end of a stream. */
export async function callTool(
  fetch: Fetch,
  session: string,
  name: string,
  args: object = {},
): Promise<Record<string, unknown>> {
  const reply = await rpc(fetch, session, toolCall(name, args))
  const result = reply.result?.structuredContent
  if (result === undefined) throw new Error(`${name} failed: ${JSON.stringify(reply)}`)
  return result
}

export async function rpc(fetch: Fetch, session: string, message: object): Promise<RpcReply> {
  const response = await send(fetch, session, message)
  if (!isStream(response)) return (await response.json()) as RpcReply
  const events = await collect(readEvents(response))
  return JSON.parse(events.at(-1)?.data ?? 'null') as RpcReply
}

export function isStream(response: Response): boolean {
  return response.headers.get('content-type')?.startsWith('text/event-stream') ?? false
}

export interface SseEvent {
  readonly id: string
  readonly data: string
  readonly retry: string
}

/** The events of a stream as they come; the priming event is the one without data. */
export async function* readEvents(response: Response): AsyncGenerator<SseEvent> {
  if (response.body === null) return
  const decoder = new TextDecoder()
  let text = ''
  // Leaving the loop cancels the stream: for the server, the client has gone.
  for await (const chunk of response.body) {
    text += decoder.decode(chunk, { stream: true })
    for (let end = text.indexOf('\n\n'); end >= 0; end = text.indexOf('\n\n')) {
      const block = text.slice(0, end)
      text = text.slice(end + 2)
      if (!block.startsWith(':')) yield parseEvent(block)
    }
  }
}

function parseEvent(block: string): SseEvent {
  const field = (name: string): string =>
    block
      .split('\n')
      .filter((line) => line.startsWith(`${name}:`))
      .map((line) => line.slice(name.length + 1).trimStart())
      .join('\n')
  return { id: field('id'), data: field('data'), retry: field('retry') }
}

export async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = []
  for await (const item of items) all.push(item)
  return all
}

/** Asks until `answer` is what is waited for. Fails by the test's own timeout, never by a guess. */
export async function until<T>(ask: () => Promise<T>, good: (answer: T) => boolean): Promise<T> {
  for (;;) {
    const answer = await ask()
    if (good(answer)) return answer
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}
