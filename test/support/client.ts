import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client'
import { Client as ClientV1 } from '@modelcontextprotocol/sdk/client/index.js'
import { StreamableHTTPClientTransport as TransportV1 } from '@modelcontextprotocol/sdk/client/streamableHttp.js'
import { expect, onTestFinished } from 'vitest'
import { BASE, isStream, post, readEvents, toolCall, type Fetch, type SseEvent } from './mcp.ts'

export interface Connected {
  readonly client: Client
  readonly transport: StreamableHTTPClientTransport
  readonly session: string
  /** Level and text of the log messages that have come so far. */
  readonly logs: readonly (readonly [string, string])[]
  readonly call: (
    tool: string,
    args?: Record<string, unknown>,
  ) => Promise<Record<string, unknown> | undefined>
}

/** The official client until the test ends: on a session of its own, or on one that is there. */
export async function connect(url: string, sessionId?: string): Promise<Connected> {
  const client = new Client({ name: 'test', version: '0.0.0' })
  const transport = new StreamableHTTPClientTransport(
    new URL(url),
    sessionId === undefined ? {} : { sessionId },
  )
  const logs: [string, string][] = []
  client.setNotificationHandler('notifications/message', ({ params }) => {
    logs.push([params.level, (params.data as { msg: string }).msg])
  })
  await client.connect(transport)
  onTestFinished(() => client.close())
  return {
    client,
    transport,
    session: transport.sessionId ?? '',
    logs,
    async call(name, args = {}) {
      const result = await client.callTool({ name, arguments: args })
      return result.structuredContent as Record<string, unknown> | undefined
    },
  }
}

/** Asks for a stream's rest behind an event, or for the session's own stream. */
export function get(session: string, lastEventId?: string): Request {
  const headers = {
    accept: 'text/event-stream',
    'mcp-session-id': session,
    ...(lastEventId !== undefined && { 'last-event-id': lastEventId }),
  }
  return new Request(`${BASE}/mcp`, { headers })
}

/** A tool call that wants to hear of its progress. */
export function speakingCall(
  session: string,
  name: string,
  args: object = {},
  id: number | string = 1,
): Request {
  const call = toolCall(name, args, id) as { params: object }
  const params = { ...call.params, _meta: { progressToken: id } }
  return post(JSON.stringify({ ...call, params }), { 'mcp-session-id': session })
}

/**
 * The messages of a stream over as many connections as it takes: a client that waits as long as
 * `retry:` says, resumes behind the last event it has, and does nothing else about a failure.
 */
export async function* resuming(fetch: Fetch, request: Request): AsyncGenerator<SseEvent> {
  const session = request.headers.get('mcp-session-id') ?? ''
  const state = { last: '', retryMs: 0, answered: false }
  for (let next = request; !state.answered; next = get(session, state.last)) {
    const response = await fetch(next)
    if (!isStream(response)) throw new Error(`${response.status}: ${await response.text()}`)
    for await (const event of untilItBreaks(response)) {
      if (event.retry !== '') state.retryMs = Number(event.retry)
      if (event.id !== '') state.last = event.id
      if (event.data === '') continue
      state.answered ||= !('method' in JSON.parse(event.data))
      yield event
    }
    if (state.last === '') throw new Error('Cannot resume stream: it broke before its first event')
    if (!state.answered) await new Promise((resolve) => setTimeout(resolve, state.retryMs))
  }
}

async function* untilItBreaks(response: Response): AsyncGenerator<SseEvent> {
  const events = readEvents(response)
  try {
    for (;;) {
      const next = await events.next().catch(() => undefined)
      if (next === undefined || next.done === true) return
      yield next.value
    }
  } finally {
    await events.return(undefined).catch(() => undefined)
  }
}

/** A notification that a call's client hears. */
export interface Told {
  readonly method?: string
  readonly params?: {
    readonly progress?: number | undefined
    readonly total?: number | undefined
    readonly message?: string | undefined
    readonly data?: { readonly msg: string } | undefined
  }
}

/** What a notification says: a log message's text, or how far a call is. */
export function toldBy({ params }: Told): string {
  const { progress, total, message, data } = params ?? {}
  return data?.msg ?? `${progress}/${total} ${message}`
}

/** All that an analysis says, in its order; on whatever instance it began. */
export function analysisTold(items: number): (string | RegExp)[] {
  const each = Array.from({ length: items }, (_, at) => at + 1)
  return [
    new RegExp(`^Starting analysis of ${items} items on \\S+$`),
    `0/${items} Validating input data`,
    'Phase 1: Input validation',
    ...each.flatMap((item) => [
      `${item}/${items} Processing item ${item}/${items}`,
      `Processing item ${item}`,
    ]),
    'Aggregating results',
    `Analysis complete: processed ${items} items, total score=${(0.75 * items * (items + 1)).toFixed(1)}`,
  ]
}

/** All that watching a counter says that does not change. */
export function watchTold(seconds: number): string[] {
  const each = Array.from({ length: seconds * 2 }, (_, at) => (at + 1) / 2)
  return [
    `Watching counter for ${seconds}s (current: 0)`,
    ...each.map((at) => `${at}/${seconds} Watching...`),
    'Watch complete. 0 change(s) detected.',
  ]
}

/** Where what was told is something else than expected, be it missing, doubled or out of place. */
export function differences(
  told: readonly string[],
  expected: readonly (string | RegExp)[],
): string[] {
  const right = (text: string | undefined, at: number): boolean => {
    const wanted = expected[at]
    return wanted instanceof RegExp ? wanted.test(text ?? '') : wanted === text
  }
  const length = Math.max(told.length, expected.length)
  const first = Array.from({ length }, (_, at) => at).find((at) => !right(told[at], at))
  if (first === undefined) return []
  return [
    `At ${first} of ${expected.length}, not "${expected[first]}": ${told.slice(first).join('; ')}`,
  ]
}

/** A v1 client of a server that gives it no session: calls tools, and answers their results. */
export async function connectWithoutSession(url: string): Promise<Connected['call']> {
  const client = new ClientV1({ name: 'test', version: '0' })
  const transport = new TransportV1(new URL(url))
  await client.connect(transport)
  onTestFinished(() => client.close())
  expect(transport.sessionId).toBeUndefined()
  return async (name, args = {}) => {
    const { structuredContent } = await client.callTool({ name, arguments: args })
    return structuredContent as Record<string, unknown>
  }
}
