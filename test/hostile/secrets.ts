import { createHash } from 'node:crypto'
import {
  BASE,
  initialize,
  post,
  readEvents,
  rpc,
  send,
  toolCall,
  type Fetch,
} from '../support/mcp.ts'
import { ask, askTool, replyTo } from '../support/stateless.ts'

/** What nobody else may learn, by what it is. */
export type Secrets = Record<string, string>

/** What was answered to a request that is named. */
export interface Told {
  readonly what: string
  readonly status: number
  readonly headers: Headers
  readonly body: string
}

const mark = (what: string): string => `${what}-${crypto.randomUUID()}`

/** Settings under which only who has the token is let in. */
export function settingsFor(token: string): Record<string, string> {
  const hash = createHash('sha256').update(token).digest('hex')
  return { AUTH_TOKENS: `ci:${hash}`, QUICK_REPLY_MS: '5' }
}

/** Clients that do all that can be done with secrets: what goes well, and what is refused. */
export async function useSecrets(
  bare: Fetch,
  token: string,
): Promise<{ secrets: Secrets; told: Told[] }> {
  const told: Told[] = []
  const secrets: Secrets = { token, wrongToken: mark('wrong') }
  const tell = async (what: string, response: Response): Promise<Told> => {
    const one = {
      what,
      status: response.status,
      headers: response.headers,
      body: await response.text(),
    }
    told.push(one)
    return one
  }
  const fetch: Fetch = (request) => {
    request.headers.set('authorization', `Bearer ${token}`)
    return bare(request)
  }
  for (const what of ['note', 'key', 'answer', 'name', 'garbage']) secrets[what] = mark(what)
  const opened = await tell('initialize', await fetch(post(JSON.stringify(initialize))))
  const session = opened.headers.get('mcp-session-id') ?? ''
  secrets['session'] = session
  await ask1(fetch, session, secrets, tell)
  await askByHandle(fetch, secrets, tell)
  for (const [what, request] of Object.entries(refusedRequests(secrets))) {
    await tell(what, await fetch(request))
  }
  for (const [what, authorization] of Object.entries(refusedCallers(secrets))) {
    const request = post(JSON.stringify(toolCall('add_note', { note: secrets['note'] })), {
      'mcp-session-id': session,
      authorization,
    })
    await tell(what, await bare(request))
  }
  for (const path of ['/live', '/ready', '/health', '/nothing', '/.well-known/x']) {
    await tell(`GET ${path.slice(0, 8)}`, await bare(new Request(BASE + path)))
  }
  return { secrets, told }
}

type Tell = (what: string, response: Response) => Promise<Told>

/** Calls in a session: with a key, with an answer of the user's, with events. */
async function ask1(fetch: Fetch, session: string, secrets: Secrets, tell: Tell): Promise<void> {
  const { note = '', key = '', answer = '' } = secrets
  const keyed = { 'mcp-session-id': session, 'idempotency-key': key }
  const noted = JSON.stringify(toolCall('add_note', { note }))
  await tell('add_note', await fetch(post(noted, keyed)))
  const other = JSON.stringify(toolCall('add_note', { note: `${note}!` }))
  await tell('a key that was used for another call', await fetch(post(other, keyed)))
  const asking = await send(fetch, session, toolCall('clear_notes', {}, 5))
  for await (const { id, data } of readEvents(asking)) {
    secrets['event'] = id
    if (data === '') continue
    const { id: question } = JSON.parse(data) as { id?: string }
    if (question === undefined) break
    const result = { action: 'accept', content: { confirm: answer } }
    await tell('an answer', await send(fetch, session, { jsonrpc: '2.0', id: question, result }))
  }
  const unasked = {
    jsonrpc: '2.0',
    id: `q-${answer}`,
    result: { action: 'accept', content: { answer } },
  }
  await tell('an answer to nothing', await send(fetch, session, unasked))
  const headers = {
    accept: 'text/event-stream',
    'mcp-session-id': session,
    'last-event-id': secrets['event'] ?? '',
  }
  await tell('a stream again', await fetch(new Request(`${BASE}/mcp`, { headers })))
  await rpc(fetch, session, toolCall('list_notes'))
}

/** A call by handle that asks, and goes on with what it has asked. */
async function askByHandle(fetch: Fetch, secrets: Secrets, tell: Tell): Promise<void> {
  const { note = '' } = secrets
  const opened = await replyTo(await fetch(askTool('open_session')))
  const session = String(opened.result?.structuredContent?.['session'])
  secrets['handle'] = session
  await tell('add_note by handle', await fetch(askTool('add_note', { session, note })))
  const capabilities = { elicitation: {} }
  const asked = await replyTo(await fetch(askTool('clear_notes', { session }, { capabilities })))
  const requestState = String(asked.result?.['requestState'])
  secrets['requestState'] = requestState
  const params = { requestState, inputResponses: {} }
  await tell('a state of another call', await fetch(askTool('list_notes', { session }, { params })))
  const forged = { ...params, requestState: `${requestState}x` }
  await tell(
    'a state that is forged',
    await fetch(askTool('clear_notes', { session }, { params: forged })),
  )
  const wrong = { headers: { 'mcp-param-session': secrets['session'] ?? '' } }
  await tell(
    'headers that say another session',
    await fetch(askTool('list_notes', { session }, wrong)),
  )
  await tell(
    'headers that say another tool',
    await fetch(
      askTool('list_notes', { session }, { headers: { 'mcp-name': secrets['name'] ?? '' } }),
    ),
  )
  await tell(
    'headers that say another method',
    await fetch(
      askTool('list_notes', { session }, { headers: { 'mcp-method': secrets['name'] ?? '' } }),
    ),
  )
  await tell('no such handle', await fetch(askTool('add_note', { session: `${session}x`, note })))
  await tell('no such tool by handle', await fetch(askTool(secrets['name'] ?? '', { session })))
  await tell('no such method by handle', await fetch(ask(`x/${secrets['name']}`)))
  await tell(
    'no such argument by handle',
    await fetch(askTool('add_note', { session, [note]: note })),
  )
  const uri = `resource://session/${session}x/summary`
  await tell('no such resource by handle', await fetch(ask('resources/read', { uri })))
}

/** What a caller sends who is let in, and gets no more. */
function refusedRequests(secrets: Secrets): Record<string, Request> {
  const { session = '', note = '', name = '', key = '', garbage = '', event = '' } = secrets
  const own = { 'mcp-session-id': session }
  const call = (tool: string, args: object, headers = {}): Request =>
    post(JSON.stringify(toolCall(tool, args)), { ...own, ...headers })
  const rpcOf = (method: string, params: object): Request =>
    post(JSON.stringify({ jsonrpc: '2.0', id: 1, method, params }), own)
  const noted = { note }
  const stream = (headers: Record<string, string>): Request =>
    new Request(`${BASE}/mcp`, { headers: { accept: 'text/event-stream', ...headers } })
  return {
    'no JSON': post(`{"x":"${garbage}"`, own),
    'no message': post(JSON.stringify({ garbage }), own),
    'no id that can be one': post(JSON.stringify({ ...toolCall('x'), id: { garbage } }), own),
    'a batch': post(JSON.stringify([toolCall('add_note', noted)]), own),
    'too large': call('add_note', { note: note.repeat(40_000) }),
    'too long a note': call('add_note', { note: note.repeat(300) }),
    'no such tool': call(name, noted),
    'no such method': rpcOf(`x/${name}`, noted),
    'no such resource': rpcOf('resources/read', { uri: `x:${name}` }),
    'no such session to read': rpcOf('resources/read', {
      uri: `resource://session/${session}x/summary`,
    }),
    'no such argument': call('add_note', { ...noted, [garbage]: garbage }),
    'an argument of the wrong kind': call('watch_counter', { duration_seconds: note }),
    'no such log level': rpcOf('logging/setLevel', { level: name }),
    'too long a key': call('add_note', noted, { 'idempotency-key': key.repeat(10) }),
    'no such session': call('add_note', noted, { 'mcp-session-id': `${session}x` }),
    'two sessions': call('add_note', noted, { 'mcp-session-id': `${session}, ${session}` }),
    'no such revision': call('add_note', noted, { 'mcp-protocol-version': name }),
    'no such type': call('add_note', noted, { 'content-type': `text/${name}` }),
    'not acceptable': call('add_note', noted, { accept: name }),
    'no such origin': call('add_note', noted, { origin: `https://${name}.example` }),
    'an event of nobody': stream({ ...own, 'last-event-id': `${garbage}.1` }),
    'an event of another stream': stream({ ...own, 'last-event-id': `${event}9999` }),
    'a stream of no session': stream({ 'mcp-session-id': `${session}x`, 'last-event-id': event }),
    'no such HTTP method': new Request(`${BASE}/mcp`, { method: 'PUT', headers: own, body: note }),
    'no initialize': post(JSON.stringify(toolCall('add_note', noted))),
    'a wrong initialize': post(JSON.stringify({ ...initialize, params: { garbage } })),
    'initialize again': post(JSON.stringify(initialize), own),
  }
}

function refusedCallers({
  token = '',
  wrongToken = '',
  session = '',
}: Secrets): Record<string, string> {
  return {
    'a wrong token': `Bearer ${wrongToken}`,
    'a session id for a token': `Bearer ${session}`,
    'a token with more behind it': `Bearer ${token} ${wrongToken}`,
    'a token of another scheme': `Basic ${token}`,
    'no scheme': token,
  }
}

/** The names of the secrets in a text. Of ids also the beginning, past what logs may show. */
export function secretsIn(text: string, secrets: Secrets): string[] {
  return Object.entries(secrets)
    .filter(([, secret]) => secret !== '')
    .filter(([what, secret]) => {
      const isId = what === 'session' || what === 'handle'
      return text.includes(isId ? secret.slice(0, 12) : secret)
    })
    .map(([what]) => what)
}
