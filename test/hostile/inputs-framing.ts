import { callTool, openSession } from '../support/mcp.ts'
import { STATELESS } from '../support/stateless.ts'
import { bytesOf, type RawRequest } from './raw.ts'
import { bare, INCREMENT, own, READ, sendTo, toSession } from './inputs.ts'
import type { Answer, InputRow, StoryRow } from './inputs.ts'
import type { Scene } from './snapshot.ts'

/** What parsers of HTTP say to what is none: nobody knows where it ends, so it is the last. */
const MALFORMED: Answer = { status: 400, closes: true }
const SERVED: Answer = { status: 200 }
const NOT_ALLOWED: Answer = { status: 405, code: -32000, allow: 'GET, POST, DELETE' }

export const FRAMING: readonly InputRow[] = [
  {
    row: '1',
    what: 'Content-Length before Transfer-Encoding, and another request within the length',
    send: smuggling(['content-length', 'transfer-encoding']),
    answer: MALFORMED,
    // They go by the chunks and close behind them, so nothing is taken for a second request.
    on: { fleet: { ...SERVED, closes: true }, edge: { ...SERVED, closes: true } },
  },
  {
    row: '1b',
    what: 'Transfer-Encoding before Content-Length, and another request within the length',
    send: smuggling(['transfer-encoding', 'content-length']),
    answer: MALFORMED,
    on: { fleet: { ...SERVED, closes: true }, edge: { ...SERVED, closes: true } },
  },
  {
    row: '2',
    what: 'two lengths, one of which ends before another request',
    send: withBehind((length, behind) => [String(length), String(length + behind)]),
    answer: MALFORMED,
  },
  {
    row: '2b',
    what: 'two lengths in one header',
    send: withBehind((length, behind) => `${length}, ${length + behind}`),
    answer: MALFORMED,
  },
  {
    row: '3',
    what: 'a length with a sign',
    send: withBehind((length) => `+${length}`),
    answer: MALFORMED,
  },
  { row: '3b', what: 'an empty length', send: withBehind(() => ''), answer: MALFORMED },
  {
    row: '4',
    what: 'a transfer coding that is none',
    send: own({ headers: { 'transfer-encoding': 'xchunked' } }),
    answer: MALFORMED,
  },
  {
    row: '4b',
    what: 'chunks that are not the last coding',
    send: own({ headers: { 'transfer-encoding': 'chunked, identity' } }),
    answer: MALFORMED,
  },
  {
    row: '5',
    what: 'a space before the colon',
    send: own({ headers: { 'content-length ': String(INCREMENT.length) } }),
    answer: MALFORMED,
  },
  {
    row: '6',
    what: 'a header without a name',
    send: own({ headers: { '': 'x' } }),
    answer: MALFORMED,
  },
  {
    row: '7',
    what: 'a header folded over two lines',
    send: own({ body: READ, headers: { 'x-folded': 'a\r\n b' } }),
    answer: MALFORMED,
    // Puts it on one line and sends that.
    on: { fleet: SERVED },
  },
  {
    row: '7b',
    what: 'lines that end without CR',
    send: ({ own: id }) =>
      Buffer.from(
        bytesOf(toSession(id, { body: READ }))
          .toString()
          .replaceAll('\r\n', '\n'),
      ),
    answer: MALFORMED,
    // For both an LF ends a line, as HTTP allows.
    on: { fleet: SERVED, edge: SERVED },
  },
  {
    row: '7c',
    what: 'a header within the value of another',
    send: own({ body: READ, headers: { 'x-one': 'a\nx-two: b' } }),
    answer: MALFORMED,
    on: { fleet: SERVED, edge: SERVED },
  },
  {
    row: '8',
    what: 'a bare CR in a value',
    send: own({ headers: { 'x-one': 'a\rb' } }),
    answer: MALFORMED,
  },
  {
    row: '8b',
    what: 'NUL in a value',
    send: own({ headers: { 'x-one': 'a\0b' } }),
    // HAProxy lets it pass: it is Node that refuses.
    answer: MALFORMED,
  },
  {
    row: '9',
    what: 'a header of 20 kB',
    send: own({ body: READ, headers: { 'x-long': 'a'.repeat(20_000) } }),
    // HAProxy's buffer takes 64 KB: it is Node that refuses.
    answer: { status: 431, closes: true },
    // On the edge headers are Cloudflare's to limit, before they come to the Worker.
    on: { edge: SERVED },
  },
  {
    row: '9b',
    what: 'a header of 70 kB',
    send: own({ body: READ, headers: { 'x-long': 'a'.repeat(70_000) } }),
    answer: { status: 431, closes: true },
    on: { fleet: MALFORMED, edge: SERVED },
  },
  {
    row: '9c',
    what: 'more than a hundred headers',
    send: own({ body: READ, headers: numbered(101) }),
    answer: { status: 431, code: -32000 },
    on: { fleet: MALFORMED, edge: SERVED },
  },
  {
    row: '10',
    what: 'headers named like what every object has',
    send: own({
      body: READ,
      headers: { ['__proto__']: 'x', constructor: 'x', prototype: 'x', tostring: 'x' },
    }),
    answer: SERVED,
  },
  ...['PUT', 'PATCH', 'TRACE'].map((method) => ({
    row: '13',
    what: `method ${method}`,
    send: bare(method),
    answer: NOT_ALLOWED,
  })),
  ...['GET', 'DELETE'].map((method) => ({
    row: '13b',
    what: `method ${method} in the revision without sessions`,
    send: bare(method, { 'mcp-protocol-version': STATELESS }),
    answer: { ...NOT_ALLOWED, allow: 'POST' },
  })),
  {
    row: '14',
    what: 'a target on another host',
    send: own({ target: 'http://evil.example/mcp', body: READ }),
    answer: { status: 403, code: -32000 },
    // HAProxy wants both to be the same host. What `wrangler dev` has in front goes by Host alone, and that
    // is all that the Worker sees.
    on: { fleet: MALFORMED, edge: SERVED },
  },
  {
    row: '14b',
    what: 'a target on another host, which is also in Host',
    send: own({ target: 'http://evil.example/mcp', headers: { host: 'evil.example' } }),
    answer: { status: 403, code: -32000 },
  },
  {
    row: '15',
    what: 'HTTP/0.9',
    send: () => Buffer.from('GET /mcp\r\n\r\n'),
    answer: MALFORMED,
    // For Node it is a request without headers.
    on: { node: { status: 406, code: -32000, closes: true } },
  },
]

export const FRAMING_STORIES: readonly StoryRow[] = [
  {
    row: '7d',
    what: 'what HAProxy puts right is one request to one instance',
    plays: async (scene) => {
      const before = await scene.passed()
      for (const { row, send } of FRAMING) {
        if (row.startsWith('7')) await sendTo(scene, await send(scene))
      }
      const after = await scene.passed()
      return before === undefined || after === undefined ? undefined : after - before
    },
    gives: undefined,
    on: { fleet: 3 },
  },
  {
    row: '7e',
    what: 'a client names its own request as the router would, openly and within a value',
    plays: async (scene) => {
      const session = await openSession(scene.fetch)
      const names: NonNullable<RawRequest['headers']>[] = [
        { 'holdfast-request': 'mine' },
        { 'x-one': 'a\nholdfast-request: mine' },
      ]
      const statuses: number[] = []
      for (const headers of [...names, ...names]) {
        const { status } = await sendTo(scene, bytesOf(toSession(session, { headers })))
        statuses.push(status)
      }
      // Were the name believed, the second of two would be answered from the record of the first.
      const { counter } = await callTool(scene.fetch, session, 'get_counter')
      return { statuses, counter }
    },
    gives: { statuses: [200, 200, 200, 200], counter: 4 },
    on: { node: { statuses: [200, 400, 200, 400], counter: 2 } },
    opens: true,
  },
]

/** A call in chunks, and behind it within the told length a second one. */
function smuggling(order: readonly ['content-length' | 'transfer-encoding', string]) {
  return ({ own: id }: Scene): Uint8Array => {
    const chunks = `${READ.length.toString(16)}\r\n${READ}\r\n0\r\n\r\n`
    const body = Buffer.concat([Buffer.from(chunks), bytesOf(toSession(id, {}))])
    const framing = { 'content-length': String(body.length), 'transfer-encoding': 'chunked' }
    const headers = Object.fromEntries(
      Object.entries(framing).toSorted(([a], [b]) => order.indexOf(a as never) - order.indexOf(b)),
    )
    return bytesOf(toSession(id, { body, headers }))
  }
}

/** A call with lengths of its own, and another one behind it. */
function withBehind(lengthOf: (length: number, behind: number) => string | string[]) {
  return ({ own: id }: Scene): Uint8Array => {
    const behind = bytesOf(toSession(id, {}))
    const headers = { 'content-length': lengthOf(INCREMENT.length, behind.length) }
    return Buffer.concat([bytesOf(toSession(id, { headers })), behind])
  }
}

function numbered(count: number): Record<string, string> {
  return Object.fromEntries(Array.from({ length: count }, (_, at) => [`x-${at}`, 'x']))
}
