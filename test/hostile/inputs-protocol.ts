import { initialize, toolCall } from '../support/mcp.ts'
import { ask, askTool } from '../support/stateless.ts'
import { bytesOf, type RawRequest } from './raw.ts'
import { bytesOfRequest, INCREMENT, message, NOT_FOUND, own, sendTo, toSession } from './inputs.ts'
import type { Answer, InputRow, StoryRow } from './inputs.ts'
import type { Scene } from './snapshot.ts'

const INVALID: Answer = { status: 400, code: -32600 }
const UNSUPPORTED: Answer = { status: 400, code: -32000, type: 'protocol_version_unsupported' }
const MISMATCH: Answer = { status: 400, code: -32020 }
const BAD_PARAMS: Answer = { status: 200, code: -32602 }
const ACCEPTED: Answer = { status: 202 }

const QUICK_MS = 50
const TRIES = 20
const VERSION = 'mcp-protocol-version'
const request = (method: string, params: object = {}) => ({ jsonrpc: '2.0', id: 1, method, params })

/** Numbers that no template and no table knows, as a pattern would have to try them. */
const LONG_URIS = [`${Array.from({ length: 10_000 }, (_, n) => n).join()}!`, 'x'.repeat(64 * 1024)]

export const PROTOCOL: readonly InputRow[] = [
  ...['garbage', '', '1999-01-01'].map((version) => ({
    row: '38',
    what: `protocol version "${version}"`,
    send: own({ headers: { [VERSION]: version } }),
    answer: UNSUPPORTED,
  })),
  {
    row: '38b',
    what: 'two protocol versions',
    send: own({ headers: { [VERSION]: ['2025-11-25', '2025-06-18'] } }),
    answer: UNSUPPORTED,
    // Whatever may be there once, HAProxy refuses twice.
    on: { fleet: INVALID },
  },
  {
    row: '38c',
    what: 'a revision without sessions that is not there yet',
    send: stateless({ [VERSION]: '2099-01-01' }, (text) =>
      text.replaceAll('2026-07-28', '2099-01-01'),
    ),
    answer: { status: 400, code: -32022 },
  },
  {
    row: '38d',
    what: 'a protocol version that only the body tells',
    send: stateless({ [VERSION]: '' }),
    answer: MISMATCH,
  },
  {
    row: '38e',
    what: 'another protocol version than the body tells',
    send: stateless({}, (text) => text.replaceAll('2026-07-28', '2099-01-01')),
    answer: MISMATCH,
  },
  {
    row: '38f',
    what: 'another session than the body names',
    send: ({ own: session, canary }) =>
      bytesOfRequest(
        askTool('increment_counter', { session }, { headers: { 'mcp-param-session': canary } }),
      ),
    answer: MISMATCH,
  },
  {
    row: '39',
    what: 'an unknown method',
    send: message(request('no/such')),
    answer: { status: 200, code: -32601 },
  },
  {
    row: '39b',
    what: 'an unknown method in the revision without sessions',
    send: () => bytesOfRequest(ask('no/such')),
    answer: { status: 404, code: -32601 },
  },
  ...LONG_URIS.map((uri) => ({
    row: '40',
    what: `a resource URI of ${uri.length} characters`,
    send: message(request('resources/read', { uri })),
    answer: BAD_PARAMS,
  })),
  {
    row: '40b',
    what: 'such a URI below our own, in the revision without sessions',
    // In the body alone: as a header it is no longer than headers may be.
    send: async () => {
      const uri = `resource://session/${LONG_URIS[0]}`
      const asked = ask('resources/read', { uri }, { headers: { 'mcp-name': 'x' } })
      return bytesOfRequest(asked)
    },
    answer: MISMATCH,
  },
  ...['nosuch', '__proto__', 'constructor', ''].map((name) => ({
    row: '41',
    what: `a tool named "${name}"`,
    send: message(toolCall(name)),
    answer: BAD_PARAMS,
  })),
  ...['[]', '"x"', '7', 'null'].map((text) => ({
    row: '42',
    what: `arguments ${text}`,
    send: message(INCREMENT.replace('{}', text)),
    answer: BAD_PARAMS,
  })),
  { row: '43', what: 'a second initialize', send: message(initialize), answer: INVALID },
  ...['f'.repeat(64), 'A'.repeat(44), 'mine'].map((id) => ({
    row: '44',
    what: `an initialize under the id of its choice "${id}"`,
    send: () => bytesOf(toSession(id, { body: JSON.stringify(initialize) })),
    answer: NOT_FOUND,
  })),
  {
    row: '45',
    what: 'an initialize for a revision that never was',
    send: beginning({ ...initialize.params, protocolVersion: '1999-01-01' }),
    answer: { status: 200, id: 0 },
    opens: true,
  },
  {
    row: '45b',
    what: 'an initialize without params',
    send: beginning(undefined),
    answer: { status: 400, code: -32602 },
  },
  ...[
    { method: 'notifications/unheard' },
    { method: 'notifications/cancelled', params: { requestId: 99 } },
    { id: 7, result: {} },
    { id: 'x', error: { code: 1, message: 'no' } },
  ].map((said) => ({
    row: '46',
    what: `${JSON.stringify(said)}, which is about nothing`,
    send: message({ jsonrpc: '2.0', ...said }),
    answer: ACCEPTED,
  })),
]

export const PROTOCOL_STORIES: readonly StoryRow[] = [
  {
    row: '40c',
    what: `such URIs, each answered within ${QUICK_MS} ms`,
    plays: async (scene) => {
      const took = async (uri: string): Promise<number> => {
        const began = performance.now()
        await sendTo(scene, await message(request('resources/read', { uri }))(scene))
        return performance.now() - began
      }
      for (const uri of LONG_URIS) {
        let tries = 1
        // Others may have the machine's cores just then, but not each time.
        while ((await took(uri)) >= QUICK_MS) if (++tries > TRIES) return false
      }
      return true
    },
    gives: true,
  },
]

function stateless(headers: Record<string, string>, change = (text: string) => text) {
  return async ({ own: session }: Scene): Promise<Uint8Array> => {
    const asked = askTool('increment_counter', { session }, { headers })
    const body = change(await asked.text())
    return bytesOf({ headers: Object.fromEntries(asked.headers), body })
  }
}

function beginning(params: object | undefined): InputRow['send'] {
  const headers: RawRequest['headers'] = { 'mcp-session-id': undefined }
  return own({ headers, body: JSON.stringify({ ...initialize, params }) })
}
