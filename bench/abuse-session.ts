/** The whole life of one session, with a call of each kind, and what must come of each. */
import {
  BASE,
  callTool,
  endSession,
  openSession,
  post,
  readEvents,
  rpc,
  toolCall,
  type Fetch,
} from '../test/support/mcp.ts'

/** What becomes of a session in the end. */
export type End = 'deleted' | 'left'

/** Throws at whatever is not right. `fetch` is called once for each request. */
export async function liveThrough(fetch: Fetch, end: End): Promise<void> {
  const session = await openSession(fetch)
  await useState(fetch, session)
  await askWithoutState(fetch, session)
  await breakAndResume(fetch, session)
  mustBe('the counter', (await callTool(fetch, session, 'get_counter'))['counter'], 2)
  if (end === 'left') return
  await endSession(fetch, session)
  const { error } = await rpc(fetch, session, toolCall('get_counter'))
  mustBe('a call of a session that has ended', error?.code, -32001)
}

async function useState(fetch: Fetch, session: string): Promise<void> {
  const call = (name: string, args = {}) => callTool(fetch, session, name, args)
  mustBe('the counter', (await call('increment_counter'))['counter'], 1)
  mustBe('the counter', (await call('increment_counter'))['counter'], 2)
  await call('add_note', { note: 'something to remember' })
  const { notes } = await call('list_notes')
  mustBe('the notes', JSON.stringify(notes), '["something to remember"]')
  await call('get_status')
  const uri = `resource://session/${session}/summary`
  const read = { jsonrpc: '2.0', id: 2, method: 'resources/read', params: { uri } }
  mustBe('a resource', (await rpc(fetch, session, read)).error, undefined)
}

async function askWithoutState(fetch: Fetch, session: string): Promise<void> {
  for (const method of ['ping', 'tools/list']) {
    const { error } = await rpc(fetch, session, { jsonrpc: '2.0', id: 3, method })
    mustBe(method, error, undefined)
  }
}

/** Follows a call that speaks for a while, hangs up, and takes the rest of it from a second stream. */
async function breakAndResume(fetch: Fetch, session: string): Promise<void> {
  const message = JSON.stringify(toolCall('analyze_data', { num_items: 1 }, 4))
  const heard: string[] = []
  let lastEventId = ''
  const response = await fetch(post(message, { 'mcp-session-id': session }))
  for await (const { id, data } of readEvents(response)) {
    lastEventId = id
    if (data === '') continue
    heard.push(data)
    break
  }
  const headers = {
    accept: 'text/event-stream',
    'mcp-session-id': session,
    'last-event-id': lastEventId,
  }
  const rest = await fetch(new Request(`${BASE}/mcp`, { headers }))
  for await (const { data } of readEvents(rest)) if (data !== '') heard.push(data)
  // Two words at the beginning, one for the item, two at the end, and its result.
  mustBe('what an analysis says', heard.length, 6)
  mustBe('its result', heard.at(-1)?.includes('"items_processed":1'), true)
}

function mustBe(what: string, seen: unknown, wanted: unknown): void {
  if (seen === wanted) return
  throw new Error(`${what}: ${JSON.stringify(seen)} instead of ${JSON.stringify(wanted)}`)
}
