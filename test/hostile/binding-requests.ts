import { get } from '../support/client.ts'
import { BASE, initialize, post, toolCall } from '../support/mcp.ts'
import { ask, askTool, type Ask } from '../support/stateless.ts'
import { CAN_ASK, KEY, noteOf, YES, type Party, type Target } from './binding-parties.ts'

/** What a caller can do with a session's id, or with what there is of a session. */
export interface Operation {
  readonly what: string
  readonly request: (target: Target, by: Party) => Request
  /** What is answered if the session is none of the caller's. */
  readonly status: number
  /** Part of what is said then. */
  readonly says?: string
}

const INCREMENT = toolCall('increment_counter')
const KEYED_CALL = toolCall('add_note', { note: noteOf('nobody') })
const uriOf = ({ session }: Target): string => `resource://session/${session}/summary`

/** In the revisions with sessions. */
const WITH_SESSIONS: readonly Operation[] = [
  posted('calls a tool that changes', INCREMENT),
  posted('calls a tool that reads', toolCall('list_notes')),
  posted('repeats a call under its key', KEYED_CALL, { 'idempotency-key': KEY }),
  posted('pings', { jsonrpc: '2.0', id: 1, method: 'ping' }),
  posted('lists its tools', { jsonrpc: '2.0', id: 1, method: 'tools/list' }),
  posted('sends a notification', { jsonrpc: '2.0', method: 'notifications/initialized' }),
  posted('sets its log level', rpc('logging/setLevel', { level: 'error' })),
  posted('begins it again', initialize),
  posted('answers its question', ({ question: id }) => ({ jsonrpc: '2.0', id, result: YES })),
  posted('cancels its call', cancelled),
  posted('reads its summary there', (target) => rpc('resources/read', { uri: uriOf(target) })),
  { what: 'ends it', status: 404, request: ({ session }) => deletion(session) },
  { what: 'listens to it', status: 404, request: ({ session }) => get(session) },
  {
    what: 'resumes its stream',
    status: 404,
    request: ({ session, event }) => get(session, event),
  },
  {
    what: 'resumes a stream of its own there',
    status: 404,
    request: ({ session }, { live }) => get(session, live.event),
  },
]

/** In the caller's own session, where it may. */
const FROM_ITS_OWN: readonly Operation[] = [
  {
    what: 'resumes its stream from a session of its own',
    status: 400,
    request: ({ event }, { live }) => get(live.session, event),
  },
  within('answers its question', 202, ({ question: id }) => ({ jsonrpc: '2.0', id, result: YES })),
  within('cancels its call', 202, cancelled),
  within('copies its state', 200, ({ session }) =>
    toolCall('resume_session', { old_session_id: session }),
  ),
  within('reads its summary', 200, (target) => rpc('resources/read', { uri: uriOf(target) })),
  within('subscribes to its summary', 200, (target) =>
    rpc('resources/subscribe', { uri: uriOf(target) }),
  ),
  within('ends that subscription', 200, (target) =>
    rpc('resources/unsubscribe', { uri: uriOf(target) }),
  ),
]

/** In the revision that names a session by a handle. */
const BY_HANDLE: readonly Operation[] = [
  stateless('calls a tool that changes', 200, ({ session }) =>
    askTool('increment_counter', { session }),
  ),
  stateless('calls a tool that reads', 200, ({ session }) => askTool('list_notes', { session })),
  stateless('repeats a call under its key', 200, ({ session }) =>
    askTool('add_note', { session, note: noteOf('nobody') }, { idempotencyKey: KEY }),
  ),
  stateless('calls a tool that asks', 200, ({ session }) =>
    askTool('clear_notes', { session }, CAN_ASK),
  ),
  {
    ...stateless('goes on with its question', 200, goOn),
    says: 'invalid_request_state',
  },
  stateless('goes on with its question in a session of its own', 200, (target, { live }) =>
    askTool('clear_notes', { session: live.session }, goingOn(target)),
  ),
  stateless('goes on with a question of its own there', 200, ({ session }, { live }) =>
    askTool('clear_notes', { session }, goingOn(live)),
  ),
  stateless('copies its state', 200, ({ session: old }, { empty: session }) =>
    askTool('resume_session', { session, old_session_id: old }),
  ),
  stateless('reads its summary', 200, (target) => ask('resources/read', { uri: uriOf(target) })),
  stateless('listens to its summary', 200, (target) =>
    ask('subscriptions/listen', { notifications: { resourceSubscriptions: [uriOf(target)] } }),
  ),
  stateless('names it in the header alone', 400, ({ session }, { live }) =>
    askTool('list_notes', { session: live.session }, named({ 'mcp-param-session': session })),
  ),
  stateless('names it in the body alone', 400, ({ session }, { live }) =>
    askTool('list_notes', { session }, named({ 'mcp-param-session': live.session })),
  ),
  stateless('names its summary in the header alone', 400, (target, { live }) =>
    ask('resources/read', { uri: uriOf(live) }, named({ 'mcp-name': uriOf(target) })),
  ),
]

export const OPERATIONS = [...WITH_SESSIONS, ...FROM_ITS_OWN, ...BY_HANDLE]

type Message = object | ((target: Target) => object)

function posted(what: string, message: Message, headers: Record<string, string> = {}): Operation {
  const request = (target: Target): Request =>
    post(textOf(message, target), { ...headers, 'mcp-session-id': target.session })
  return { what, status: 404, request }
}

/** In an empty session, for what is copied must have a place. */
function within(what: string, status: number, message: Message): Operation {
  const request = (target: Target, { empty }: Party): Request =>
    post(textOf(message, target), { 'mcp-session-id': empty })
  return { what: `${what}, from a session of its own`, status, request }
}

function stateless(what: string, status: number, request: Operation['request']): Operation {
  return { what: `${what}, by its handle`, status, request }
}

function textOf(message: Message, target: Target): string {
  return JSON.stringify(typeof message === 'function' ? message(target) : message)
}

function cancelled({ callId: requestId }: Target): object {
  return { jsonrpc: '2.0', method: 'notifications/cancelled', params: { requestId } }
}

function rpc(method: string, params: object): object {
  return { jsonrpc: '2.0', id: 1, method, params }
}

function deletion(session: string): Request {
  return new Request(`${BASE}/mcp`, { method: 'DELETE', headers: { 'mcp-session-id': session } })
}

/** Goes on with a question, as who was asked does. */
export function goOn(target: Target): Request {
  return askTool('clear_notes', { session: target.session }, goingOn(target))
}

function goingOn({ requestState, asked }: Pick<Target, 'requestState' | 'asked'>): Ask {
  return { ...CAN_ASK, params: { requestState, inputResponses: { [asked]: YES } } }
}

const named = (headers: Record<string, string>): Ask => ({ headers })
