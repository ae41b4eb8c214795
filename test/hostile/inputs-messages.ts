import { toolCall } from '../support/mcp.ts'
import { askTool } from '../support/stateless.ts'
import { bytesOf } from './raw.ts'
import { bytesOfRequest, INCREMENT, message, own, READ, sendTo, toSession } from './inputs.ts'
import type { Answer, InputRow, StoryRow } from './inputs.ts'
import { memoryOf } from './topologies.ts'

const FORBIDDEN: Answer = { status: 403, code: -32000 }
const UNSUPPORTED: Answer = { status: 415, code: -32000 }
const NOT_ACCEPTABLE: Answer = { status: 406, code: -32000 }
const NO_JSON: Answer = { status: 400, code: -32700 }
const NO_MESSAGE: Answer = { status: 400, code: -32600 }
const TOO_LARGE: Answer = { status: 413, code: -32000 }
const REFUSED_CALL: Answer = { status: 200, isError: true }

const increment = JSON.parse(INCREMENT) as { readonly params: object }
const MIB = 1024 * 1024
const CHUNK = 64 * 1024
const LARGE_BODIES = 20

function header(row: string, what: string, name: string, value: string | undefined) {
  return { row, what, send: own({ headers: { [name]: value } }) }
}

export const ORIGIN: readonly InputRow[] = [
  {
    ...header('16', 'Origin of another site', 'origin', 'https://evil.example'),
    answer: FORBIDDEN,
  },
  { ...header('17', 'Origin null', 'origin', 'null'), answer: FORBIDDEN },
  { ...header('18', 'Host of another site', 'host', 'evil.example'), answer: FORBIDDEN },
  ...[
    ['that begins like ours', 'http://localhost.evil.com'],
    ['below a loopback name', 'http://127.0.0.1.nip.io'],
    ['with a trailing dot', 'http://localhost.'],
    ['with our name as user', 'http://localhost@evil.example'],
  ].map(([what, origin]) => ({
    ...header('19', `Origin ${what}`, 'origin', origin),
    answer: FORBIDDEN,
  })),
  {
    row: '19b',
    what: 'Origin with a user at our name',
    send: own({ body: READ, headers: { origin: 'http://evil:x@localhost' } }),
    answer: FORBIDDEN,
    // What `wrangler dev` has in front takes the user away.
    on: { edge: { status: 200 } },
  },
  {
    row: '19c',
    what: 'an allowed Origin and another one',
    send: own({ headers: { origin: ['http://localhost', 'https://evil.example'] } }),
    answer: FORBIDDEN,
  },
]

export const MEDIA: readonly InputRow[] = [
  { ...header('20', 'no Content-Type', 'content-type', undefined), answer: UNSUPPORTED },
  { ...header('20b', 'text/plain', 'content-type', 'text/plain'), answer: UNSUPPORTED },
  {
    ...header('21', 'JSON as a parameter', 'content-type', 'text/plain;a=application/json'),
    answer: UNSUPPORTED,
  },
  {
    ...header('22', 'UTF-16', 'content-type', 'application/json; charset=utf-16'),
    answer: UNSUPPORTED,
  },
  { ...header('22b', 'a compressed body', 'content-encoding', 'gzip'), answer: UNSUPPORTED },
  { ...header('23', 'no Accept', 'accept', undefined), answer: NOT_ACCEPTABLE },
  {
    ...header('23b', 'Accept of JSON alone', 'accept', 'application/json'),
    answer: NOT_ACCEPTABLE,
  },
  { ...header('23c', 'Accept of anything', 'accept', '*/*'), answer: NOT_ACCEPTABLE },
  {
    row: '23d',
    what: 'Accept of JSON alone in the revision without sessions',
    send: ({ own: session }) =>
      bytesOfRequest(
        askTool('increment_counter', { session }, { headers: { accept: 'application/json' } }),
      ),
    // Its clients MUST accept both as well.
    answer: NOT_ACCEPTABLE,
  },
]

export const JSON_TEXT: readonly InputRow[] = [
  { row: '24', what: 'half a message', send: message(INCREMENT.slice(0, 20)), answer: NO_JSON },
  { row: '24b', what: 'no message', send: message(''), answer: NO_JSON },
  { row: '24c', what: 'UTF-16', send: message(Buffer.from(INCREMENT, 'utf16le')), answer: NO_JSON },
  ...['null', '42', '"x"', 'true'].map((text) => ({
    row: '25',
    what: text,
    send: message(text),
    answer: NO_MESSAGE,
  })),
  { row: '26', what: 'a batch of two', send: message([increment, increment]), answer: NO_MESSAGE },
  { row: '27', what: 'an empty batch', send: message([]), answer: NO_MESSAGE },
  {
    row: '28',
    what: 'JSON-RPC 1.0',
    send: message({ ...increment, jsonrpc: '1.0' }),
    answer: NO_MESSAGE,
  },
  {
    row: '28b',
    what: 'no version of JSON-RPC',
    send: message({ ...increment, jsonrpc: undefined }),
    answer: NO_MESSAGE,
  },
  ...['null', '1.5', '{}', '[]', 'true', '1e400'].map((id) => ({
    row: '29',
    what: `id ${id}`,
    send: message(INCREMENT.replace('"id":1', `"id":${id}`)),
    answer: NO_MESSAGE,
  })),
  {
    row: '30',
    what: 'an id of 257 characters',
    send: message({ ...increment, id: 'x'.repeat(257) }),
    answer: NO_MESSAGE,
  },
  {
    row: '30b',
    what: 'a progress token of 257 characters, which all that is told of the call would repeat',
    send: message(INCREMENT.replace('{}', `{},"_meta":{"progressToken":"${'x'.repeat(257)}"}`)),
    answer: NO_MESSAGE,
  },
  { row: '31', what: 'a byte order mark', send: message(`\uFEFF${INCREMENT}`), answer: NO_JSON },
  {
    row: '32',
    what: 'a note that is not UTF-8',
    send: message(Buffer.from(JSON.stringify(toolCall('add_note', { note: '\u00ff' })), 'latin1')),
    answer: NO_JSON,
  },
  {
    row: '33',
    what: 'one key twice, of which the last one holds',
    send: message(READ.replace('"id":1', '"id":1,"id":2')),
    answer: { status: 200, id: 2 },
  },
  {
    row: '33b',
    what: 'a name twice, of which the header has the last',
    send: naming('get_counter'),
    answer: { status: 200 },
  },
  {
    row: '33c',
    what: 'a name twice, of which the header has the first',
    send: naming('increment_counter'),
    answer: { status: 400, code: -32020 },
  },
  {
    row: '34',
    what: 'Method with a capital',
    send: message(INCREMENT.replace('"method"', '"Method"')),
    answer: NO_MESSAGE,
  },
  {
    row: '35',
    what: 'a body over 1 MiB that tells its length',
    send: message(Buffer.alloc(MIB + 1, INCREMENT.padEnd(MIB + 1))),
    answer: TOO_LARGE,
  },
  {
    row: '35b',
    what: 'a body over 1 MiB in chunks',
    send: ({ own: id }) => inChunks(id, 17),
    answer: TOO_LARGE,
  },
  ...[65, 10_000, 400_000].map((depth) => ({
    row: '36',
    what: `${depth} levels`,
    // The arguments are on the third.
    send: message(INCREMENT.replace('{}', `${'['.repeat(depth - 2)}${']'.repeat(depth - 2)}`)),
    answer: NO_MESSAGE,
  })),
  {
    row: '36b',
    what: 'a million levels that never end',
    send: message('['.repeat(1_000_000)),
    answer: NO_MESSAGE,
  },
  ...['__proto__', '\\u005f_proto__', 'constructor'].map((key) => ({
    row: '37',
    what: `"${key}" in the arguments`,
    send: message(INCREMENT.replace('{}', `{"${key}":{"by":9}}`)),
    answer: REFUSED_CALL,
  })),
  {
    row: '37b',
    what: '"__proto__" in _meta',
    send: message(INCREMENT.replace('"arguments"', '"_meta":{"__proto__":{"by":9}},"arguments"')),
    answer: REFUSED_CALL,
  },
]

export const JSON_STORIES: readonly StoryRow[] = [
  {
    row: '35c',
    what: `${LARGE_BODIES} bodies of 10 MiB, of which next to nothing is kept`,
    plays: async (scene) => {
      const before = await memoryOf(await scene.pids())
      for (let count = 0; count < LARGE_BODIES; count++) {
        await sendTo(scene, inChunks(scene.own, (10 * MIB) / CHUNK))
      }
      const grown = (await memoryOf(await scene.pids())) - before
      return grown < (LARGE_BODIES * 10 * MIB) / 2
    },
    gives: true,
  },
]

/** A body of so many times 64 KiB that does not tell its length. */
function inChunks(id: string, count: number): Uint8Array {
  const head = Buffer.from(`${CHUNK.toString(16)}\r\n`)
  const chunk = Buffer.concat([head, Buffer.alloc(CHUNK, ' '), Buffer.from('\r\n')])
  const chunks = [...Array.from({ length: count }, () => chunk), Buffer.from('0\r\n\r\n')]
  const headers = { 'transfer-encoding': 'chunked' }
  return bytesOf(toSession(id, { body: Buffer.concat(chunks), headers }))
}

/** A call whose body names two tools. */
function naming(tool: string): InputRow['send'] {
  return async ({ own: session }) => {
    const request = askTool('increment_counter', { session }, { headers: { 'mcp-name': tool } })
    const name = '"name":"increment_counter"'
    const body = (await request.text()).replace(name, `${name},"name":"get_counter"`)
    return bytesOf({ headers: Object.fromEntries(request.headers), body })
  }
}
