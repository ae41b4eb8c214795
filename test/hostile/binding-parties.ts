import {
  endSession,
  isStream,
  openSession,
  post,
  readEvents,
  send,
  toolCall,
  type Fetch,
  type RpcReply,
} from '../support/mcp.ts'
import { askTool, replyTo } from '../support/stateless.ts'

/** What there is of a session that its owner alone may use. */
export interface Target {
  readonly session: string
  /** The last event of a call's stream, its question, and the call's JSON-RPC id. */
  readonly event: string
  readonly question: string
  readonly callId: string
  /** In 2026-07-28: what a call goes on with, and what it asked. */
  readonly requestState: string
  readonly asked: string
}

/** A caller with a session that has state and waits for an answer, and with one that is new. */
export interface Party {
  readonly name: string
  readonly fetch: Fetch
  readonly live: Target
  /** The same of a session that is over. */
  readonly ended: Target
  readonly empty: string
}

export const KEY = 'the same key'
export const YES = { action: 'accept', content: { confirm: true } }
export const CAN_ASK = { capabilities: { elicitation: {} } }

export async function createParty(name: string, fetch: Fetch): Promise<Party> {
  const [live, ended, empty] = await Promise.all([
    createTarget(name, fetch),
    createTarget(name, fetch),
    openSession(fetch),
  ])
  await endSession(fetch, ended.session)
  return { name, fetch, live, ended, empty }
}

async function createTarget(name: string, fetch: Fetch): Promise<Target> {
  const session = await openSession(fetch)
  await keyedNote(name, fetch, session)
  const callId = crypto.randomUUID()
  const { event, question } = await ask(fetch, session, callId)
  return { session, event, question, callId, ...(await askStateless(fetch, session)) }
}

/** Adds the party's note, under the key that all of them use. */
export async function keyedNote(name: string, fetch: Fetch, session: string): Promise<RpcReply> {
  const call = JSON.stringify(toolCall('add_note', { note: noteOf(name) }))
  const headers = { 'mcp-session-id': session, 'idempotency-key': KEY }
  return (await (await fetch(post(call, headers))).json()) as RpcReply
}

/** What nobody else may read. */
export function noteOf(name: string): string {
  return `a note of ${name}`
}

async function ask(fetch: Fetch, session: string, callId: string) {
  const response = await send(fetch, session, toolCall('clear_notes', {}, callId))
  if (!isStream(response)) throw new Error(await response.text())
  for await (const { id: event, data } of readEvents(response)) {
    if (data !== '') return { event, question: String(JSON.parse(data).id) }
  }
  throw new Error('Nothing was asked')
}

async function askStateless(fetch: Fetch, session: string) {
  const { result, error } = await replyTo(await fetch(askTool('clear_notes', { session }, CAN_ASK)))
  const { requestState, inputRequests } = result ?? {}
  const [asked] = Object.keys(inputRequests ?? {})
  if (asked === undefined) throw new Error(JSON.stringify(error ?? result))
  return { requestState: String(requestState), asked }
}
