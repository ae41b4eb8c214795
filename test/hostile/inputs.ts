import { post, toolCall, type RpcReply } from '../support/mcp.ts'
import { bytesOf, exchange, type RawAnswer, type RawRequest } from './raw.ts'
import type { Scene } from './snapshot.ts'
import type { TopologyName } from './topologies.ts'

/** What is looked at in an answer. What is not named may be anything, but for the first three. */
export interface Answer {
  readonly status: number
  /** The JSON-RPC error code; unset: there is no JSON-RPC error. */
  readonly code?: number
  /** A tool's result that is an error. */
  readonly isError?: true
  /** `data.type` of the error. */
  readonly type?: string
  /** Of the JSON-RPC message. */
  readonly id?: number
  /** The connection is closed behind it. */
  readonly closes?: true
  readonly allow?: string
}

interface Row {
  /** Names the row; one attack may be several rows. */
  readonly row: string
  readonly what: string
  /** Where something in front answers before the server can, or in its own way. */
  readonly on?: Partial<Record<TopologyName, Answer>>
  /** It opens sessions of its own, so that there are more afterwards. */
  readonly opens?: true
}

/** One request and its answer. */
export interface InputRow extends Row {
  readonly send: (scene: Scene) => Uint8Array | Promise<Uint8Array>
  readonly answer: Answer
}

/** An attack that takes more than one request, and what comes of it. */
export interface StoryRow extends Omit<Row, 'on'> {
  readonly plays: (scene: Scene) => Promise<unknown>
  readonly gives: unknown
  readonly on?: Partial<Record<TopologyName, unknown>>
}

export const NOT_FOUND: Answer = { status: 404, code: -32001, type: 'session_not_found' }
export const INCREMENT = JSON.stringify(toolCall('increment_counter'))
export const READ = JSON.stringify(toolCall('get_counter'))

/** A request to the attacked session, an increment if nothing else is said. */
export function own(change: RawRequest = {}): (scene: Scene) => Uint8Array {
  return (scene) => bytesOf(toSession(scene.own, change))
}

export function toSession(session: string, { headers, ...change }: RawRequest): RawRequest {
  const given = Object.fromEntries(post(INCREMENT).headers)
  const all = { ...given, 'mcp-session-id': session, ...headers }
  return { body: INCREMENT, ...change, headers: all }
}

/** A request without a body. */
export function bare(method: string, headers: RawRequest['headers'] = {}) {
  return ({ own: session }: Pick<Scene, 'own'>): Uint8Array => {
    const all = { host: 'localhost', accept: 'text/event-stream', 'mcp-session-id': session }
    return bytesOf({ method, headers: { ...all, ...headers } })
  }
}

/** A message to the attacked session. */
export function message(text: string | Uint8Array | object): InputRow['send'] {
  const isWhole = typeof text === 'string' || text instanceof Uint8Array
  return own({ body: isWhole ? text : JSON.stringify(text) })
}

/** A request that one of the helpers for well-behaved clients has made. */
export async function bytesOfRequest(request: Request): Promise<Uint8Array> {
  const { method, headers } = request
  const body = method === 'POST' ? { body: await request.text() } : {}
  return bytesOf({ method, headers: Object.fromEntries(headers), ...body })
}

export async function sendTo({ port }: Scene, bytes: Uint8Array): Promise<RawAnswer> {
  return exchange(port, bytes)
}

/** An answer, as far as a row says something of it. */
export function outcomeOf(answer: RawAnswer, wanted: Answer): Answer {
  const reply = replyIn(answer.body)
  const seen: Record<keyof Answer, unknown> = {
    status: answer.status,
    code: reply?.error?.code,
    isError: reply?.result?.isError === true ? true : undefined,
    type: reply?.error?.data?.type,
    id: reply?.id,
    closes: answer.closes ? true : undefined,
    allow: answer.headers.get('allow'),
  }
  const always = new Set(['status', 'code', 'isError'])
  const looked = Object.entries(seen).filter(([key]) => always.has(key) || key in wanted)
  return Object.fromEntries(looked) as unknown as Answer
}

export function replyIn(body: string): RpcReply | undefined {
  try {
    return (JSON.parse(body) ?? undefined) as RpcReply | undefined
  } catch {
    return undefined
  }
}
