import {
  isStream,
  post,
  readEvents,
  toolCall,
  type Fetch,
  type RpcReply,
  type SseEvent,
} from './mcp.ts'

export const STATELESS = '2026-07-28'
const META = 'io.modelcontextprotocol'

export interface Ask {
  readonly id?: number | string
  /** The least grave log message to send; unset: none. */
  readonly level?: string
  readonly progressToken?: number | string
  readonly capabilities?: object
  readonly clientInfo?: object
  readonly idempotencyKey?: string
  /** More of the request's params. */
  readonly params?: object
  /** In place of what the body says; '' leaves one out. */
  readonly headers?: Record<string, string>
  readonly signal?: AbortSignal
}

/** A request of the revision without sessions, with the headers that repeat what its body says. */
export function ask(method: string, params: object = {}, more: Ask = {}): Request {
  const { name, uri, arguments: input } = params as Named
  const { id = 1, signal, idempotencyKey } = more
  const body = { ...params, ...more.params, _meta: envelope(more) }
  const named = name ?? uri
  const request = post(JSON.stringify({ jsonrpc: '2.0', id, method, params: body }), {
    'mcp-protocol-version': STATELESS,
    'mcp-method': method,
    ...(named !== undefined && { 'mcp-name': named }),
    ...(input?.session !== undefined && { 'mcp-param-session': input.session }),
    ...(idempotencyKey !== undefined && { 'idempotency-key': idempotencyKey }),
    ...more.headers,
  })
  if (signal === undefined) return request
  const heeding = new Request(request, { signal })
  // Its own signal follows this one only for as long as somebody holds the request.
  signal.addEventListener('abort', () => heeding.signal.aborted)
  return heeding
}

/** A tool call; its session is the argument `session`. */
export function askTool(name: string, args: object = {}, more: Ask = {}): Request {
  return ask('tools/call', (toolCall(name, args) as { params: object }).params, more)
}

/** What is answered, be it JSON or the end of a stream. */
export async function replyTo(response: Response): Promise<RpcReply> {
  if (!isStream(response)) return (await response.json()) as RpcReply
  let last: SseEvent | undefined
  for await (const event of readEvents(response)) last = event
  return JSON.parse(last?.data ?? 'null') as RpcReply
}

/** Calls a tool, and answers its result; throws if it has none. */
export async function runTool(
  fetch: Fetch,
  name: string,
  args: object = {},
  more: Ask = {},
): Promise<Record<string, unknown>> {
  const reply = await replyTo(await fetch(askTool(name, args, more)))
  const result = reply.result?.structuredContent
  if (result === undefined) throw new Error(`${name} failed: ${JSON.stringify(reply)}`)
  return result
}

/** Opens a session, to be passed to tools as their argument `session`. */
export async function openHandle(fetch: Fetch): Promise<string> {
  return String((await runTool(fetch, 'open_session'))['session'])
}

interface Named {
  readonly name?: string
  readonly uri?: string
  readonly arguments?: { readonly session?: string }
}

/** What each request says of its client, having no session that has said it before. */
export function envelope(more: Ask = {}): object {
  const { level, progressToken, capabilities = {} } = more
  const { clientInfo = { name: 'test', version: '0' } } = more
  return {
    [`${META}/protocolVersion`]: STATELESS,
    [`${META}/clientCapabilities`]: capabilities,
    [`${META}/clientInfo`]: clientInfo,
    ...(level !== undefined && { [`${META}/logLevel`]: level }),
    ...(progressToken !== undefined && { progressToken }),
  }
}
