import { describe, expect, it } from 'vitest'
import * as z from 'zod'
import type { Call } from '../../../mcp/session/call.ts'
import { slot, type JsonObject } from '../../../mcp/session/state.ts'
import { defineTool, type Pack } from '../../../mcp/session/tool.ts'
import { tools } from '../../../mcp/tools/index.ts'
import { createLocalApp } from '../../support/local-app.ts'
import {
  BASE,
  callTool,
  initialize,
  openSession,
  post,
  rpc,
  toolCall,
  TOOL_NAMES,
} from '../../support/mcp.ts'
import {
  ask,
  askTool,
  envelope,
  openHandle,
  replyTo,
  runTool,
  STATELESS,
} from '../../support/stateless.ts'

const LATER = '2099-01-01'
const VERSION = 'io.modelcontextprotocol/protocolVersion'

const { fetch } = createLocalApp()
const counterOf = async (session: string) =>
  (await runTool(fetch, 'get_counter', { session }))['counter']

/** Calls `increment_counter`; '' for a header leaves it out. */
function increment(
  session: string,
  { meta = {}, headers = {}, change = (text: string) => text }: Changes = {},
): Request {
  const args = { name: 'increment_counter', arguments: { session } }
  const params = { ...args, ...(meta !== 'none' && { _meta: { ...envelope(), ...meta } }) }
  const text = JSON.stringify({ jsonrpc: '2.0', id: 'mine', method: 'tools/call', params })
  return post(change(text), {
    'mcp-protocol-version': STATELESS,
    'mcp-method': 'tools/call',
    'mcp-name': 'increment_counter',
    'mcp-param-session': session,
    ...headers,
  })
}

interface Changes {
  readonly meta?: object | 'none'
  readonly headers?: Record<string, string>
  readonly change?: (text: string) => string
}

type Row = [what: string, changes: Changes, code: number, id?: string | null]

const version = (value: string) => ({ 'mcp-protocol-version': value })
const claims = (value: string) => ({ [VERSION]: value })
const header = (name: string, value = ''): Changes => ({ headers: { [name]: value } })
const body = (change: (text: string) => string): Changes => ({ change })

const MISMATCHED: readonly Row[] = [
  ['no MCP-Protocol-Version', header('mcp-protocol-version'), -32020],
  ['MCP-Protocol-Version with sessions', header('mcp-protocol-version', '2025-11-25'), -32020],
  ['MCP-Protocol-Version never heard of', header('mcp-protocol-version', '1999-01-01'), -32020],
  ['MCP-Protocol-Version that is none', header('mcp-protocol-version', 'x'), -32020],
  ['two', header('mcp-protocol-version', `${STATELESS}, ${STATELESS}`), -32020],
  ['a later MCP-Protocol-Version', header('mcp-protocol-version', LATER), -32020],
  ['a later version in the body', { meta: claims(LATER) }, -32020],
  ['a version with sessions in the body', { meta: claims('2025-11-25') }, -32020],
  ['no Mcp-Method', header('mcp-method'), -32020],
  ['another Mcp-Method', header('mcp-method', 'tools/list'), -32020],
  ['Mcp-Method in capitals', header('mcp-method', 'TOOLS/CALL'), -32020],
  ['no Mcp-Name', header('mcp-name'), -32020],
  ['another Mcp-Name', header('mcp-name', 'get_counter'), -32020],
  ['Mcp-Name of no tool', header('mcp-name', 'none'), -32020],
  ['Mcp-Name in broken base64', header('mcp-name', '=?base64?x?='), -32020],
  ['no Mcp-Param-Session', header('mcp-param-session'), -32020],
  ['another Mcp-Param-Session', header('mcp-param-session', 'other'), -32020],
  ['two in Mcp-Param-Session', header('mcp-param-session', 'a, b'), -32020],
]

const REFUSED: readonly Row[] = [
  ['a version that is not served', { meta: claims(LATER), headers: version(LATER) }, -32022],
  ['no envelope', { meta: 'none' }, -32602],
  ['a later version and no envelope', { meta: 'none', headers: version(LATER) }, -32602],
  ['a version that is no text', { meta: { [VERSION]: 5 } }, -32602],
  ['a batch', body((text) => `[${text}]`), -32600, null],
  ['an empty batch', body(() => '[]'), -32600, null],
  ['a text', body(() => '"x"'), -32600, null],
  ['no JSON', body((text) => text.slice(1)), -32700, null],
  ['a fractional id', body((text) => text.replace('"mine"', '1.5')), -32600, null],
  [
    'nesting of 65',
    body((text) => text.replace('{"jsonrpc"', `${deep(65)},"jsonrpc"`)),
    -32600,
    null,
  ],
]

const deep = (levels: number) => `{"deep":${'['.repeat(levels)}${']'.repeat(levels)}`

describe('a request without a session', () => {
  it.each([...MISMATCHED, ...REFUSED])('is refused with %s', async (_what, changes, code, id) => {
    const session = await openHandle(fetch)
    const response = await fetch(increment(session, changes))
    expect(response.status).toBe(400)
    const reply = await replyTo(response)
    expect([reply.error?.code, reply.id]).toEqual([code, id === undefined ? 'mine' : id])
    expect(await counterOf(session)).toBe(0)
  })

  it('is served if its headers say in base64 what its body says', async () => {
    const session = await openHandle(fetch)
    const coded = (text: string) => `=?base64?${btoa(text)}?=`
    const name = { 'mcp-name': coded('increment_counter') }
    for (const headers of [name, { 'mcp-param-session': coded(session) }]) {
      expect((await replyTo(await fetch(increment(session, { headers })))).id).toBe('mine')
    }
    expect(await counterOf(session)).toBe(2)
  })

  it.each(['GET', 'DELETE', 'PUT'])('is a POST, not %s', async (method) => {
    const session = await openSession(fetch)
    for (const revision of [STATELESS, LATER]) {
      const headers = { host: 'localhost', accept: 'text/event-stream', 'mcp-session-id': session }
      const request = new Request(`${BASE}/mcp`, { method, headers })
      request.headers.set('mcp-protocol-version', revision)
      const response = await fetch(request)
      expect([response.status, response.headers.get('allow')]).toEqual([405, 'POST'])
    }
    expect(await callTool(fetch, session, 'get_counter')).toMatchObject({ counter: 0 })
  })

  it.each(['another', 'x, y', ''])('heeds no mcp-session-id: %o', async (given) => {
    const session = await openHandle(fetch)
    const id = given === 'another' ? await openSession(fetch) : given
    const response = await fetch(increment(session, { headers: { 'mcp-session-id': id } }))
    expect(response.headers.has('mcp-session-id')).toBe(false)
    expect((await replyTo(response)).result?.structuredContent).toMatchObject({ counter: 1 })
    if (given === 'another') expect(await counterOf(id)).toBe(0)
  })

  it('begins no session, whatever it says', async () => {
    const { protocolVersion: _, ...params } = initialize.params
    const response = await fetch(ask('initialize', { ...params, protocolVersion: STATELESS }))
    expect([response.status, response.headers.has('mcp-session-id')]).toEqual([404, false])
    expect((await replyTo(response)).error?.code).toBe(-32601)
  })

  it.each(['no/such', 'ping', 'logging/setLevel', 'resources/subscribe', 'toString'])(
    'is not found, as HTTP says it, for a method that there is not: %s',
    async (method) => {
      const response = await fetch(ask(method, { uri: 'x:y', level: 'info' }))
      expect(response.status).toBe(404)
      expect((await replyTo(response)).error?.code).toBe(-32601)
    },
  )

  it.each<[what: string, change: (text: string) => string, headers?: Record<string, string>]>([
    ['__proto__', (text) => text.replace('{"session":', '{"__proto__":{"a":1},"session":')],
    ['one more', (text) => text.replace('{"session":', '{"more":1,"session":')],
    ['none', (text) => text.replace(/"session":"[^"]*"/, ''), { 'mcp-param-session': '' }],
    ['a list for its session', (text) => text.replace(/"session":("[^"]*")/, '"session":[$1]')],
    [
      'a number for it',
      (text) => text.replace(/"session":"[^"]*"/, '"session":5'),
      { 'mcp-param-session': '5' },
    ],
  ])('is a tool error with arguments that do not fit: %s', async (_what, change, headers = {}) => {
    const session = await openHandle(fetch)
    const response = await fetch(increment(session, { change, headers }))
    expect(response.status).toBe(200)
    expect((await replyTo(response)).result).toMatchObject({ isError: true })
    expect(await counterOf(session)).toBe(0)
  })

  it.each([
    ['notifications/cancelled', 202],
    ['tools/call', 202],
  ])('has no answer if it is a notification: %s', async (method, status) => {
    const session = await openHandle(fetch)
    const params = { name: 'increment_counter', arguments: { session }, _meta: envelope() }
    const headers = { 'mcp-protocol-version': STATELESS, 'mcp-method': method }
    const message = JSON.stringify({ jsonrpc: '2.0', method, params })
    const response = await fetch(post(message, headers))
    expect([response.status, await response.text()]).toEqual([status, ''])
    expect(await counterOf(session)).toBe(0)
  })
})

describe('what is offered without a session', () => {
  interface Listed {
    readonly name: string
    readonly inputSchema: {
      readonly properties: Readonly<Record<string, object>>
      readonly required?: readonly string[]
    }
  }
  const listed = (reply: unknown) => (reply as { result: { tools: Listed[] } }).result.tools

  it('asks exactly the tools with state for a session, and has one that opens it', async () => {
    const offered = listed(await replyTo(await fetch(ask('tools/list'))))
    expect(offered.map(({ name }) => name)).toEqual(['open_session', ...TOOL_NAMES])
    const stateful = tools.tools.flatMap(({ name, stateless }) => (stateless ? [] : [name]))
    const asking = offered.filter(({ inputSchema }) => inputSchema.required?.includes('session'))
    expect(asking.map(({ name }) => name)).toEqual(stateful)
    for (const { name, inputSchema } of offered) {
      const { session } = inputSchema.properties
      const isAsked = stateful.includes(name)
      if (isAsked) expect(session).toMatchObject({ type: 'string', 'x-mcp-header': 'Session' })
      expect(JSON.stringify(inputSchema).split('x-mcp-header')).toHaveLength(isAsked ? 2 : 1)
    }
  })

  it('is not asked for where there are sessions', async () => {
    const session = await openSession(fetch)
    const offered = await rpc(fetch, session, { jsonrpc: '2.0', id: 1, method: 'tools/list' })
    expect(listed(offered).map(({ name }) => name)).toEqual(TOOL_NAMES)
    expect(JSON.stringify(offered)).not.toMatch(/x-mcp-header|"session"|open_session/)
    expect((await rpc(fetch, session, toolCall('open_session'))).error?.code).toBe(-32602)
    const { result } = await rpc(fetch, session, toolCall('get_counter', { session }))
    expect(result?.isError).toBe(true)
  })

  it('leaves a tool that needs none an argument of that name', async () => {
    const echo = defineTool({
      name: 'echo',
      description: 'Answers its input',
      input: z.strictObject({ session: z.string() }),
      stateless: true,
      run: async (_call, input) => ({ ...input }),
    })
    const { fetch: its } = createLocalApp({ pack: { tools: [echo] } })
    const mine = { session: 'mine' }
    for (const headers of [{}, { 'mcp-param-session': '' }]) {
      const { result } = await replyTo(await its(askTool('echo', mine, { headers })))
      expect(result?.structuredContent).toEqual(mine)
    }
  })

  it('is told by server/discover', async () => {
    const { result } = await replyTo(await fetch(ask('server/discover')))
    expect(result).toMatchObject({
      supportedVersions: [STATELESS],
      capabilities: { tools: {}, resources: { subscribe: true } },
      resultType: 'complete',
      _meta: { 'io.modelcontextprotocol/serverInfo': { name: 'holdfast' } },
    })
  })

  it.each([
    ['server/discover', 60_000, 'public'],
    ['tools/list', 60_000, 'public'],
    ['resources/list', 60_000, 'public'],
    ['resources/templates/list', 60_000, 'public'],
    ['resources/read', 0, 'private'],
  ])('may be kept by who asked: %s', async (method, ttlMs, cacheScope) => {
    const uri = `resource://session/${await openHandle(fetch)}/summary`
    const { result } = await replyTo(
      await fetch(ask(method, method === 'resources/read' ? { uri } : {})),
    )
    expect(result).toMatchObject({ ttlMs, cacheScope })
  })

  it('shows the state of the session in a URI', async () => {
    const session = await openHandle(fetch)
    await runTool(fetch, 'increment_counter', { session })
    const read = async (id: string) =>
      replyTo(await fetch(ask('resources/read', { uri: `resource://session/${id}/summary` })))
    expect((await read(session)).result).toMatchObject({
      contents: [{ text: expect.stringContaining('"counter": 1') }],
    })
    expect((await read('none')).error?.code).toBe(-32602)
  })
})

describe('a header that a tool of the user asks for', () => {
  const count = slot('n', z.int().default(0))
  const region = z.string().meta({ 'x-mcp-header': 'Region' })
  const run = async (call: Call): Promise<JsonObject> => {
    const state = await call.update((before) => count.set(before, count.get(before) + 1))
    return { n: count.get(state) }
  }
  const pack: Pack = {
    name: 'test',
    version: '0',
    tools: [
      defineTool({ name: 'flat', description: '', input: z.strictObject({ region }), run }),
      defineTool({
        name: 'nested',
        description: '',
        input: z.strictObject({ at: z.strictObject({ region }) }),
        run,
      }),
      defineTool({
        name: 'free',
        description: '',
        input: z.strictObject({ region }),
        stateless: true,
        run: async () => ({ n: 1 }),
      }),
    ],
  }

  it.each([
    ['flat', { region: 'eu' }],
    ['nested', { at: { region: 'eu' } }],
    ['free', { region: 'eu' }],
  ])('must say what the argument says: %s', async (name, input) => {
    const { fetch: its } = createLocalApp({ pack })
    const session = name === 'free' ? {} : { session: await openHandle(its) }
    const say = (headers: Record<string, string>) =>
      its(askTool(name, { ...session, ...input }, { id: 'mine', headers }))
    for (const headers of [{}, { 'mcp-param-region': 'us' }, { 'mcp-param-region': '' }]) {
      const response = await say(headers)
      expect(response.status).toBe(400)
      expect(await replyTo(response)).toMatchObject({ id: 'mine', error: { code: -32020 } })
    }
    const { result } = await replyTo(await say({ 'mcp-param-region': 'eu' }))
    expect(result?.structuredContent).toEqual({ n: 1 })
  })
})
