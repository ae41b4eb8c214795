import * as fc from 'fast-check'
import { BASE, initialize, post, toolCall } from '../support/mcp.ts'
import { ask, askTool } from '../support/stateless.ts'

/** What a client that means harm may know. */
export interface Known {
  /** A session of its own, which is also the handle of one. */
  readonly own: string
  /** An event that its session has sent. */
  readonly event: string
  /** What a call of its own goes on with. */
  readonly requestState: string
}

/** A request that is in order, and what is done to it before it is sent. */
export interface FuzzCase {
  readonly base: number
  readonly changes: readonly Change[]
  readonly bytes: readonly ByteChange[]
  readonly headers: readonly (readonly [name: string, value: string])[]
  readonly method: string | undefined
}

type Change =
  | { readonly kind: 'drop' | 'nest' | 'list'; readonly at: number }
  | { readonly kind: 'set'; readonly at: number; readonly value: unknown }
  | { readonly kind: 'rename'; readonly at: number; readonly name: string }

/** At a place in the text, as a part of its length. */
interface ByteChange {
  readonly kind: 'flip' | 'insert' | 'cut' | 'key'
  readonly at: number
  readonly what: number
}

/** In its parts, for whoever sends it. */
export interface FuzzRequest {
  readonly method: string
  readonly headers: Readonly<Record<string, string>>
  readonly body: Uint8Array<ArrayBuffer> | undefined
}

type Base = (known: Known) => Request

const META = { progressToken: 7 }
const CALLS: readonly (readonly [tool: string, args: object])[] = [
  ['increment_counter', {}],
  ['get_counter', {}],
  ['add_note', { note: 'what is noted' }],
  ['list_notes', {}],
  ['get_server_info', {}],
  ['get_status', {}],
  ['resume_session', { old_session_id: 'x' }],
  ['watch_counter', { duration_seconds: 1 }],
  ['clear_notes', {}],
]
const methods = ({ own }: Known): readonly (readonly [method: string, params: object])[] => [
  ['ping', {}],
  ['tools/list', { cursor: 'x' }],
  ['resources/templates/list', {}],
  ['resources/read', { uri: `resource://session/${own}/summary` }],
  ['resources/subscribe', { uri: `resource://session/${own}/summary` }],
  ['resources/unsubscribe', { uri: `resource://session/${own}/summary` }],
  ['logging/setLevel', { level: 'info' }],
  [
    'completion/complete',
    { ref: { type: 'ref/prompt', name: 'x' }, argument: { name: 'a', value: 'b' } },
  ],
  [
    'subscriptions/listen',
    { notifications: { resourceSubscriptions: [`resource://session/${own}/summary`] } },
  ],
  ['server/discover', {}],
]
const METHODS = 10

const inSession = (known: Known, message: object): Request =>
  post(JSON.stringify(message), {
    'mcp-session-id': known.own,
    'mcp-protocol-version': '2025-11-25',
  })

const BASES: readonly Base[] = [
  () => post(JSON.stringify(initialize)),
  ...CALLS.map(
    ([tool, args]): Base =>
      (known) =>
        inSession(known, toolCall(tool, args)),
  ),
  ...CALLS.map(([tool, args]): Base => ({ own }) => {
    const isPlain = tool.startsWith('get_s')
    return askTool(tool, isPlain ? args : { ...args, session: own }, { idempotencyKey: tool })
  }),
  ...Array.from({ length: METHODS }, (_, n): Base => (known) => {
    const [method, params] = methods(known)[n] ?? ['', {}]
    return inSession(known, { jsonrpc: '2.0', id: n, method, params: { ...params, _meta: META } })
  }),
  ...Array.from(
    { length: METHODS },
    (_, n): Base =>
      (known) =>
        ask(...(methods(known)[n] ?? ['', {}])),
  ),
  () => askTool('open_session'),
  ({ own, requestState }) => {
    const inputResponses = { 'q-1': { action: 'accept', content: { confirm: true } } }
    return askTool('clear_notes', { session: own }, { params: { requestState, inputResponses } })
  },
  (known) =>
    inSession(known, {
      jsonrpc: '2.0',
      method: 'notifications/cancelled',
      params: { requestId: 1 },
    }),
  (known) => inSession(known, { jsonrpc: '2.0', method: 'notifications/initialized' }),
  (known) =>
    inSession(known, {
      jsonrpc: '2.0',
      id: known.event.replace('.', '/'),
      result: { action: 'accept' },
    }),
  (known) =>
    inSession(known, { jsonrpc: '2.0', id: known.event, error: { code: 1, message: 'no' } }),
  ({ own }) => new Request(`${BASE}/mcp`, { headers: streamHeaders(own) }),
  ({ own, event }) =>
    new Request(`${BASE}/mcp`, { headers: { ...streamHeaders(own), 'last-event-id': event } }),
]

const streamHeaders = (own: string) => ({
  host: 'localhost',
  accept: 'text/event-stream',
  'mcp-session-id': own,
})

/** Made from text, so that `__proto__` is a key as any other. */
const HOSTILE: readonly unknown[] = [
  ...[
    'null true -1 0 1.5 1e308 9007199254740993 "" [] {} [[]] {"toString":1} {"toJSON":1} {"then":1}',
    '{"__proto__":{"polluted":true}} {"constructor":{"prototype":{"polluted":true}}} {"length":1e9}',
    '{"valueOf":null,"toString":null} {"session":{"__proto__":[]}} "__proto__" "constructor" "\\ud800"',
    '"\\u0000" "../../x" "\\r\\ndata:x" "%ff" "resource://session/{x}/summary" "2025-03-26" "1900-01-01"',
  ].flatMap((line) => line.split(' ').map((text): unknown => JSON.parse(text))),
  JSON.parse('['.repeat(80) + ']'.repeat(80)),
  JSON.parse('{"a":'.repeat(63) + '1' + '}'.repeat(63)),
  'x'.repeat(70_000),
  'resource://session/' + ','.repeat(5000),
  'x:' + 'x'.repeat(1_000_000),
]

const NAMES = [
  '__proto__',
  'constructor',
  'toString',
  'Method',
  'ID',
  'params',
  '',
  'x'.repeat(300),
  '_meta',
  'session',
]

const HEADERS: Readonly<Record<string, readonly string[]>> = {
  'content-type': [
    'text/plain',
    'application/json; charset=utf-16',
    'application/json;charset=UTF-8',
    'multipart/form-data',
    ';',
    'application/json, text/html',
  ],
  'content-encoding': ['gzip', 'identity', 'x'],
  accept: [
    '*/*',
    'application/json',
    'text/event-stream',
    ',,,',
    'application/json;q=0, text/event-stream',
  ],
  host: ['evil.example', 'localhost:99999', 'localhost.', '[::1', 'a@localhost', '127.0.0.1:80'],
  origin: [
    'null',
    'https://evil.example',
    'http://localhost',
    'http://localhost:1/x',
    'x',
    'http://[::1]',
  ],
  'mcp-session-id': [
    'x',
    '__proto__',
    'A'.repeat(44),
    'f'.repeat(64),
    'x, y',
    '\u00e9',
    '*',
    'x'.repeat(2000),
    '{a}',
  ],
  'mcp-protocol-version': [
    '2026-07-28',
    '2025-03-26',
    '2024-11-05',
    '9999-99-99',
    'x',
    '2026-07-28, 2025-11-25',
  ],
  'last-event-id': [
    'x',
    'AAAAAAAAAAAA.1',
    'AAAAAAAAAAAA.99999999999',
    '-1',
    '.',
    '__proto__.0',
    '\u00e9',
  ],
  'idempotency-key': ['k', 'x'.repeat(129), '__proto__', '\u00e9', 'a, b'],
  'mcp-method': ['tools/call', 'x', '__proto__', '=?base64?eA==?=', '=?base64?%?=', '\u00e9'],
  'mcp-name': [
    'get_counter',
    '__proto__',
    '=?base64?eA==?=',
    'resource://session/x/summary',
    'resource://session//',
    '\u00e9',
  ],
  'mcp-param-session': [
    'x',
    '__proto__',
    'A'.repeat(44),
    'f'.repeat(64),
    '=?base64?eA==?=',
    '\u00e9',
  ],
  authorization: [
    'Bearer',
    'Bearer x',
    'Basic eDp4',
    'Bearer \u00e9',
    'Bearer a.b.c',
    'bearer  x y',
  ],
}

// Anywhere alike: small numbers are in no way special here.
const at = fc.noBias(fc.nat(999_999)).map((part) => part / 1_000_000)
const hostile = fc.oneof({ weight: 4, arbitrary: fc.constantFrom(...HOSTILE) }, fc.jsonValue())
const change: fc.Arbitrary<Change> = fc.oneof(
  fc.record({ kind: fc.constantFrom('drop', 'nest', 'list'), at }),
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('set'), at, value: hostile }) },
  fc.record({ kind: fc.constant('rename'), at, name: fc.constantFrom(...NAMES) }),
)
const byteChange = fc.record({
  kind: fc.constantFrom('flip', 'insert', 'cut', 'key'),
  at,
  what: fc.noBias(fc.nat(1000)),
})
const header = fc.constantFrom(...Object.keys(HEADERS)).chain((name) => {
  const known = fc.constantFrom('', ...(HEADERS[name] ?? []))
  const any = fc.string({ unit: 'binary-ascii' }).map(printable)
  return fc.tuple(fc.constant(name), fc.oneof({ weight: 3, arbitrary: known }, any))
})

const someChanges = fc.array(change, { minLength: 1, maxLength: 2 })
const someBytes = fc.array(byteChange, { minLength: 1, maxLength: 2 })
const someHeaders = fc.array(header, { minLength: 1, maxLength: 2 })
const anyMethod = fc.constantFrom('GET', 'DELETE', 'PUT', 'HEAD', 'OPTIONS', 'PATCH', 'POST')
const base = fc.noBias(fc.nat(BASES.length - 1))

/** Most are wrong in one way only: what is wrong in several is refused for the first. */
export const fuzzCase: fc.Arbitrary<FuzzCase> = fc.oneof(
  { weight: 12, arbitrary: wrong({ changes: someChanges }) },
  { weight: 3, arbitrary: wrong({ bytes: someBytes }) },
  { weight: 4, arbitrary: wrong({ headers: someHeaders }) },
  {
    weight: 1,
    arbitrary: wrong({
      changes: someChanges,
      bytes: someBytes,
      headers: someHeaders,
      method: anyMethod,
    }),
  },
)

type Parts = { readonly [part in keyof FuzzCase]: fc.Arbitrary<FuzzCase[part]> }

function wrong(parts: Partial<Parts>): fc.Arbitrary<FuzzCase> {
  const none = fc.constant([])
  const method = fc.constant(undefined)
  return fc.record({ base, changes: none, bytes: none, headers: none, method, ...parts })
}

/** The request of a case, from one who knows what is `known`. */
export async function requestOf(fuzz: FuzzCase, known: Known): Promise<FuzzRequest> {
  const request = BASES[fuzz.base]?.(known) ?? new Request(`${BASE}/mcp`)
  const method = fuzz.method ?? request.method
  const headers = Object.fromEntries(request.headers)
  for (const [name, value] of fuzz.headers) {
    if (value === '') delete headers[name]
    else headers[name] = value
  }
  if (method === 'GET' || method === 'HEAD') return { method, headers, body: undefined }
  const text = request.method === 'POST' ? await request.text() : '{}'
  const message = fuzz.changes.reduce<unknown>(changed, JSON.parse(text))
  return {
    method,
    headers,
    body: fuzz.bytes.reduce(broken, encoder.encode(JSON.stringify(message))),
  }
}

function changed(message: unknown, one: Change): unknown {
  const root = { message }
  const places = placesIn(root)
  const place = places[Math.floor(one.at * places.length)]
  if (place === undefined) return message
  const [parent, key] = place
  const old = parent[key]
  switch (one.kind) {
    case 'drop':
      delete parent[key]
      break
    case 'nest':
      put(parent, key, { [key]: old })
      break
    case 'list':
      put(parent, key, [old, old])
      break
    case 'set':
      // A copy: later changes may be within it.
      put(parent, key, JSON.parse(JSON.stringify(one.value)))
      break
    case 'rename':
      delete parent[key]
      put(parent, one.name, old)
  }
  return root.message ?? null
}

/** Whatever the name: as JSON's parser does it. */
function put(parent: Record<string, unknown>, key: string, value: unknown): void {
  Object.defineProperty(parent, key, {
    value,
    enumerable: true,
    configurable: true,
    writable: true,
  })
}

type Place = readonly [parent: Record<string, unknown>, key: string]

/** Not within what is deep or large itself. */
function placesIn(value: unknown, depth = 0): Place[] {
  if (typeof value !== 'object' || value === null || depth > 6) return []
  const parent = value as Record<string, unknown>
  return Object.keys(parent).flatMap((key): Place[] => [
    [parent, key],
    ...placesIn(parent[key], depth + 1),
  ])
}

const INSERTED: readonly (readonly number[])[] = [
  [0xff, 0xfe],
  [0xed, 0xa0, 0x80],
  [0xef, 0xbb, 0xbf],
  [0xc0, 0x80],
  [0x00],
  [0xf4, 0x90, 0x80, 0x80],
  [0x5b, 0x5b, 0x7b],
]
const KEYS = [
  '"id":7,',
  '"method":"ping",',
  '"__proto__":{"polluted":true},',
  '"params":{},',
  '"name":"__proto__",',
  '"jsonrpc":"1.0",',
  '"session":"x",',
].map((text) => [...new TextEncoder().encode(text)])

function broken(
  text: Uint8Array<ArrayBuffer>,
  { kind, at: part, what }: ByteChange,
): Uint8Array<ArrayBuffer> {
  const place = Math.floor(part * text.length)
  const [before, after] = [text.subarray(0, place), text.subarray(place)]
  switch (kind) {
    case 'flip':
      return text.map((byte, n) => (n === place ? byte ^ (1 << (what % 8)) : byte))
    case 'insert':
      return joined(before, INSERTED[what % INSERTED.length], after)
    case 'cut':
      return before.slice()
    case 'key': {
      // Behind the next brace, so that what was there is there twice.
      const brace = text.indexOf(0x7b, place) + 1
      return joined(text.subarray(0, brace), KEYS[what % KEYS.length], text.subarray(brace))
    }
  }
}

function joined(before: Uint8Array, added: readonly number[] = [], after: Uint8Array) {
  return Uint8Array.from(Buffer.concat([before, Uint8Array.from(added), after]))
}

/** What HTTP lets be in a header. */
function printable(text: string): string {
  return text.replaceAll(/[^\x21-\x7e]/g, '~')
}

const encoder = new TextEncoder()
