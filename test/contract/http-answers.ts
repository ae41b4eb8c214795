import { beforeAll, describe, expect, it } from 'vitest'
import {
  BASE,
  callTool,
  initialize,
  openSession,
  post,
  POST_HEADERS,
  readEvents,
  send,
  toolCall,
  type Fetch,
  type RpcReply,
} from '../support/mcp.ts'

interface Row {
  readonly what: string
  readonly request: (session: string) => Request
  readonly status: number
  readonly code?: number
  readonly type?: string
}

const increment = toolCall('increment_counter')
const text = JSON.stringify(increment)
const own = (session: string, headers: Record<string, string> = {}) => ({
  'mcp-session-id': session,
  ...headers,
})
const bodyRow = (what: string, body: BodyInit, code: number, status = 400): Row => ({
  what,
  request: (session) => post(body, own(session)),
  status,
  code,
})
const headerRow = (
  what: string,
  headers: Record<string, string>,
  status: number,
  code = -32000,
): Row => ({ what, request: (session) => post(text, own(session, headers)), status, code })
const messageRow = (what: string, change: object, code = -32600): Row =>
  bodyRow(what, JSON.stringify({ ...increment, ...change }), code)

// Refusals: each leaves the session as it was.
const REFUSED: readonly Row[] = [
  ...['PUT', 'PATCH', 'OPTIONS'].map((method) => ({
    what: `method ${method}`,
    request: () => new Request(`${BASE}/mcp`, { method, headers: { host: 'localhost' } }),
    status: 405,
    code: -32000,
  })),
  headerRow('a foreign Origin', { origin: 'https://evil.example' }, 403),
  headerRow('Origin null', { origin: 'null' }, 403),
  headerRow('an Origin that only begins like ours', { origin: 'http://localhost.evil.com' }, 403),
  headerRow('an Origin below a loopback name', { origin: 'http://127.0.0.1.nip.io' }, 403),
  headerRow('an Origin with a trailing dot', { origin: 'http://localhost.' }, 403),
  headerRow('an Origin with user info', { origin: 'http://localhost@evil.com' }, 403),
  headerRow('an Origin with user info of ours', { origin: 'http://a:b@localhost' }, 403),
  headerRow('a foreign Host', { host: 'evil.example' }, 403),
  headerRow('a Host with a trailing dot', { host: 'localhost.' }, 403),
  headerRow('a Host that is no name', { host: 'localhost/x' }, 403),
  headerRow('no Content-Type', { 'content-type': '' }, 415),
  headerRow('Content-Type text/plain', { 'content-type': 'text/plain' }, 415),
  headerRow('a disguised Content-Type', { 'content-type': 'text/plain;a=application/json' }, 415),
  headerRow('charset utf-16', { 'content-type': 'application/json; charset=utf-16' }, 415),
  headerRow('a compressed body', { 'content-encoding': 'gzip' }, 415),
  headerRow('no Accept', { accept: '' }, 406),
  headerRow('Accept without event-stream', { accept: 'application/json' }, 406),
  headerRow('Accept */*', { accept: '*/*' }, 406),
  headerRow('an unknown protocol version', { 'mcp-protocol-version': '1999-01-01' }, 400),
  headerRow('two protocol versions', { 'mcp-protocol-version': '2025-11-25, 2025-06-18' }, 400),
  bodyRow('an empty body', '', -32700),
  bodyRow('malformed JSON', '{"jsonrpc":', -32700),
  bodyRow('a number that JSON does not know', text.replace('"id":1', '"id":NaN'), -32700),
  bodyRow(
    'UTF-16',
    new Uint8Array(Array.from(text).flatMap((char) => [char.charCodeAt(0), 0])),
    -32700,
  ),
  bodyRow('a byte order mark', `\uFEFF${text}`, -32700),
  bodyRow('invalid UTF-8 in a note', badUtf8('add_note', { note: 'X' }), -32700),
  bodyRow('null', 'null', -32600),
  bodyRow('a number', '42', -32600),
  bodyRow('a string', '"x"', -32600),
  bodyRow('a batch', JSON.stringify([increment, increment]), -32600),
  bodyRow('an empty batch', '[]', -32600),
  messageRow('jsonrpc 1.0', { jsonrpc: '1.0' }),
  messageRow('no jsonrpc', { jsonrpc: undefined }),
  messageRow('id null', { id: null }),
  messageRow('a fractional id', { id: 1.5 }),
  messageRow('an object as id', { id: {} }),
  bodyRow('an infinite id', text.replace('"id":1', '"id":1e400'), -32600),
  messageRow('an id of 257 characters', { id: 'x'.repeat(257) }),
  bodyRow('Method with a capital', text.replace('"method"', '"Method"'), -32600),
  messageRow('params as an array', { params: [] }),
  messageRow('_meta that is no object', { params: { name: 'increment_counter', _meta: 'x' } }),
  bodyRow('nesting of 10,000', `${'['.repeat(10_000)}${']'.repeat(10_000)}`, -32600),
  bodyRow('nesting of 1,000,000', '['.repeat(1_000_000), -32600),
  bodyRow('nesting of 65 in arguments', nested(65), -32600),
  bodyRow('a body over 1 MiB', `${text}${' '.repeat(1024 * 1024)}`, -32000, 413),
  messageRow('a second initialize', initialize),
  {
    what: 'a body over 1 MiB without its length',
    request: (session) => post(streamed(new Uint8Array(1024 * 1024 + 1)), own(session)),
    status: 413,
    code: -32000,
  },
  {
    what: 'no session id',
    request: () => post(text),
    status: 400,
    code: -32000,
    type: 'session_required',
  },
  {
    what: 'two session ids',
    request: (session) => post(text, { 'mcp-session-id': `${session}, ${session}` }),
    status: 400,
    code: -32600,
  },
  {
    what: 'an initialize without params',
    request: () => post(JSON.stringify({ ...initialize, params: undefined })),
    status: 400,
    code: -32602,
  },
  {
    what: 'GET without session id',
    request: () => get({}),
    status: 400,
    code: -32000,
  },
  {
    what: 'GET that accepts no stream',
    request: (session) => get(own(session, { accept: 'application/json' })),
    status: 406,
    code: -32000,
  },
  ...['garbage', 'AAAAAAAAAAAA.1', 'x.1', '', '.1', 'AAAAAAAAAAAA.-1'].map((id) => ({
    what: `Last-Event-ID "${id}"`,
    request: (session: string) => get(own(session, { 'last-event-id': id })),
    status: 400,
    code: -32600,
    type: 'event_id_unknown',
  })),
  {
    what: 'DELETE without session id',
    request: () => new Request(`${BASE}/mcp`, { method: 'DELETE', headers: { host: 'localhost' } }),
    status: 400,
    code: -32000,
  },
]

/** What HTTP refuses and how, on every topology. */
export function httpAnswersContract(name: string, fetch: Fetch): void {
  describe(`HTTP answers: ${name}`, () => {
    let session: string

    beforeAll(async () => {
      session = await openSession(fetch)
      await callTool(fetch, session, 'increment_counter')
      await callTool(fetch, session, 'add_note', { note: 'kept' })
    })

    it.each(REFUSED)('refuses $what with $status', async ({ request, status, code, type }) => {
      const response = await fetch(request(session))
      const body = (await response.json()) as RpcReply
      expect({ status: response.status, code: body.error?.code }).toEqual({ status, code })
      if (type !== undefined) expect(body.error?.data?.type).toBe(type)
      expect(body.id).toBeNull()
      expect(response.headers.get('mcp-session-id')).toBeNull()
      if (status === 405) expect(response.headers.get('allow')).toBe('GET, POST, DELETE')
      await expectUntouched(fetch, session)
    })

    it('answers unknown, malformed, forged and ended ids with the same 404', async () => {
      const ended = await openSession(fetch)
      await fetch(remove(ended))
      const last = session.at(-1) === '0' ? '1' : '0'
      const ids = [ended, 'a'.repeat(64), `${session.slice(0, -1)}${last}`, '*', '?', '{x}']
      const more = ['[a-z]', 'a:counter', '__proto__', 'x'.repeat(2000)]
      const answers = new Set<string>()
      for (const id of [...ids, ...more]) {
        for (const request of [
          post(text, own(id)),
          post(JSON.stringify(initialize), own(id)),
          get(own(id)),
          remove(id),
        ]) {
          const response = await fetch(request)
          answers.add(`${response.status} ${await response.text()}`)
        }
      }
      const body = '{"jsonrpc":"2.0","id":null,"error":{"code":-32001,"message":"Session not found"'
      expect([...answers]).toEqual([`404 ${body},"data":{"type":"session_not_found"}}}`])
      await expectUntouched(fetch, session)
    })

    it('never makes a session under an id that the client chose', async () => {
      const chosen = await fetch(post(JSON.stringify(initialize), own('f'.repeat(64))))
      expect(chosen.status).toBe(404)
      await chosen.text()
    })

    it('serves allowed callers', async () => {
      for (const headers of [
        { origin: 'http://localhost:6274' },
        { host: 'localhost:8787' },
        { host: '127.0.0.1', origin: 'http://127.0.0.1' },
        { 'content-type': 'Application/JSON; charset="UTF-8"' },
        { accept: 'text/event-stream;q=0.5, application/json;q=1' },
        { 'mcp-protocol-version': '2025-03-26' },
      ]) {
        const response = await fetch(
          post(JSON.stringify(toolCall('get_counter')), own(session, headers)),
        )
        expect(response.status).toBe(200)
        await response.text()
      }
    })

    it.each([
      ['an unknown tool', toolCall('nosuch'), -32602],
      ['a tool named __proto__', toolCall('__proto__'), -32602],
      ['arguments as an array', toolCall('increment_counter', []), -32602],
      ['an unknown method', { jsonrpc: '2.0', id: 1, method: 'no/such' }, -32601],
      ['a resource that is none', read('resource://nowhere'), -32602],
      ['a resource URI of 40,000 characters', read(`1${',2'.repeat(20_000)}!`), -32602],
    ])('answers %s with 200 and an error', async (_what, message, code) => {
      const response = await send(fetch, session, message)
      expect(response.status).toBe(200)
      expect(((await response.json()) as RpcReply).error?.code).toBe(code)
      await expectUntouched(fetch, session)
    })

    it.each([
      ['an unknown argument', toolCall('increment_counter', { by: 2 })],
      ['constructor as an argument', toolCall('increment_counter', { constructor: 1 })],
      ['a missing argument', toolCall('add_note')],
      ['a note that is none', toolCall('add_note', { note: 7 })],
      ['an empty note', toolCall('add_note', { note: '' })],
      ['a note with half a surrogate pair', toolCall('add_note', { note: '\ud800' })],
      ['a note with NUL', toolCall('add_note', { note: 'a\0b' })],
      ['a note that is too long', toolCall('add_note', { note: 'x'.repeat(8193) })],
      ['a count that is text', toolCall('analyze_data', { num_items: '2' })],
      ['a fractional count', toolCall('analyze_data', { num_items: 1.5 })],
      ['a count that is too high', toolCall('analyze_data', { num_items: 1_000_000 })],
    ])('answers %s with an error result', async (_what, message) => {
      const response = await send(fetch, session, message)
      const { result } = (await response.json()) as RpcReply
      expect(result).toMatchObject({ isError: true })
      expect(result?.structuredContent).toBeUndefined()
      await expectUntouched(fetch, session)
    })

    it('answers __proto__ as an argument, however spelled, with an error result', async () => {
      for (const key of ['__proto__', '\\u005f_proto__']) {
        const body = text.replace('"arguments":{}', `"arguments":{"${key}":{"by":9}}`)
        const response = await fetch(post(body, own(session)))
        expect(((await response.json()) as RpcReply).result).toMatchObject({ isError: true })
      }
      expect('by' in {}).toBe(false)
      await expectUntouched(fetch, session)
    })

    it('takes the last of two equal keys', async () => {
      const body = JSON.stringify(toolCall('get_counter')).replace('"id":1', '"id":1,"id":2')
      const response = await fetch(post(body, own(session)))
      expect(((await response.json()) as RpcReply).id).toBe(2)
    })

    it('keeps what looks like a frame of a stream inside its note', async () => {
      const other = await openSession(fetch)
      const note = '\n\ndata: x\r\n\u2028'
      await callTool(fetch, other, 'add_note', { note })
      expect(await callTool(fetch, other, 'list_notes')).toMatchObject({ notes: [note] })
    })

    it('takes unknown notifications, cancellations and answers to nothing', async () => {
      for (const message of [
        { jsonrpc: '2.0', method: 'notifications/unheard' },
        { jsonrpc: '2.0', method: 'notifications/cancelled', params: { requestId: 99 } },
        { jsonrpc: '2.0', method: 'notifications/cancelled' },
        { jsonrpc: '2.0', id: 7, result: {} },
        { jsonrpc: '2.0', id: 'x', error: { code: 1, message: 'no' } },
      ]) {
        const response = await send(fetch, session, message)
        expect(response.status).toBe(202)
        expect(await response.text()).toBe('')
      }
      await expectUntouched(fetch, session)
    })

    it('serves a session to the end of what its DELETE allows', async () => {
      const mine = await openSession(fetch)
      const stream = readEvents(await fetch(get(own(mine))))
      expect((await stream.next()).value).toMatchObject({ data: '' })
      const removed = await fetch(remove(mine))
      expect({ status: removed.status, body: await removed.text() }).toEqual({
        status: 200,
        body: '',
      })
      expect((await stream.next()).done).toBe(true)
      expect((await fetch(remove(mine))).status).toBe(404)
    })

    it('tells that it lives, is healthy and ready', async () => {
      for (const path of ['/live', '/health', '/ready']) {
        const response = await fetch(new Request(`${BASE}${path}`))
        expect(response.status).toBe(200)
        expect(await response.json()).toMatchObject({ status: 'ok', instance: expect.any(String) })
      }
      const missing = await fetch(new Request(`${BASE}/nothing`))
      expect(missing.status).toBe(404)
      await missing.text()
    })
  })
}

async function expectUntouched(fetch: Fetch, session: string): Promise<void> {
  expect(await callTool(fetch, session, 'get_counter')).toMatchObject({ counter: 1 })
  expect(await callTool(fetch, session, 'list_notes')).toMatchObject({ notes: ['kept'] })
}

function get(headers: Record<string, string>): Request {
  const all = { accept: 'text/event-stream', host: POST_HEADERS.host, ...headers }
  return new Request(`${BASE}/mcp`, { headers: all })
}

function remove(session: string): Request {
  const headers = { ...own(session), host: POST_HEADERS.host }
  return new Request(`${BASE}/mcp`, { method: 'DELETE', headers })
}

function read(uri: string): object {
  return { jsonrpc: '2.0', id: 1, method: 'resources/read', params: { uri } }
}

/** A call that would be in order but for one byte. */
function badUtf8(name: string, args: object): Uint8Array<ArrayBuffer> {
  const bytes = new TextEncoder().encode(JSON.stringify(toolCall(name, args)))
  return bytes.map((byte) => (byte === 'X'.charCodeAt(0) ? 0xff : byte))
}

function nested(depth: number): string {
  const open = depth - 2
  return text.replace('"arguments":{}', `"arguments":${'['.repeat(open)}${']'.repeat(open)}`)
}

function streamed(bytes: Uint8Array<ArrayBuffer>): ReadableStream<Uint8Array<ArrayBuffer>> {
  return new ReadableStream({
    start(controller) {
      controller.enqueue(bytes)
      controller.close()
    },
  })
}
