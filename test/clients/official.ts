/** The official client: the line that most have installed, and the current one in all its modes. */
import {
  Client as ClientV2,
  LOG_LEVEL_META_KEY,
  StreamableHTTPClientTransport as TransportV2,
  type ClientOptions,
} from '@modelcontextprotocol/client'
import { Client as ClientV1 } from '@modelcontextprotocol/sdk/client/index.js'
import { StreamableHTTPClientTransport as TransportV1 } from '@modelcontextprotocol/sdk/client/streamableHttp.js'
import {
  ElicitRequestSchema,
  LoggingMessageNotificationSchema,
} from '@modelcontextprotocol/sdk/types.js'
import { CONSENT, outcomeOf, type ClientKind, type Heard, type TestClient } from './client-kind.ts'

const CAPABLE = { hears: true, asks: true }
const V2 = '@modelcontextprotocol/client'
const INFO = { name: 'test', version: '0.0.0' }
const CAN_ASK = { capabilities: { elicitation: { form: {} } } }

export const official: readonly ClientKind[] = [
  {
    ...CAPABLE,
    name: 'v1',
    from: '@modelcontextprotocol/sdk',
    revision: '2025-11-25',
    connect: connectV1,
  },
  { ...CAPABLE, name: 'v2, as it comes', from: V2, revision: '2025-11-25', connect: connectV2 },
  {
    ...CAPABLE,
    name: 'v2, `auto`',
    from: V2,
    revision: '2026-07-28',
    connect: (url) => connectV2(url, { mode: 'auto' }),
  },
  {
    ...CAPABLE,
    name: 'v2, pinned to 2026-07-28',
    from: V2,
    revision: '2026-07-28',
    connect: connectPinned,
  },
]

export function connectPinned(url: string): Promise<TestClient> {
  return connectV2(url, { mode: { pin: '2026-07-28' } })
}

/** With a `sessionId` it begins none: it goes on with that one, and says no `initialize`. */
export async function connectV1(url: string, sessionId?: string): Promise<TestClient> {
  const client = new ClientV1(INFO, CAN_ASK)
  const transport = new TransportV1(new URL(url), sessionId === undefined ? {} : { sessionId })
  const heard: Heard = { levels: [], progress: [] }
  client.setNotificationHandler(LoggingMessageNotificationSchema, ({ params }) => {
    heard.levels.push(params.level)
  })
  client.setRequestHandler(ElicitRequestSchema, () => CONSENT)
  await client.connect(transport)
  const onprogress = (step: { progress: number }): void => void heard.progress.push(step.progress)
  return {
    revision: transport.protocolVersion,
    session: transport.sessionId,
    heard,
    tools: async () => (await client.listTools()).tools,
    call: (name, args = {}) =>
      outcomeOf(() => client.callTool({ name, arguments: args }, undefined, { onprogress })),
    read: (uri) => client.readResource({ uri }),
    async close() {
      if (sessionId === undefined) await transport.terminateSession()
      await client.close()
    },
  }
}

interface V2Options {
  readonly mode?: NonNullable<ClientOptions['versionNegotiation']>['mode']
  /** As with v1. */
  readonly sessionId?: string
}

export async function connectV2(
  url: string,
  { mode, sessionId }: V2Options = {},
): Promise<TestClient> {
  const negotiation = mode === undefined ? {} : { versionNegotiation: { mode } }
  const client = new ClientV2(INFO, { ...CAN_ASK, ...negotiation })
  const transport = new TransportV2(new URL(url), sessionId === undefined ? {} : { sessionId })
  const heard: Heard = { levels: [], progress: [] }
  client.setNotificationHandler('notifications/message', ({ params }) => {
    heard.levels.push(params.level)
  })
  // The same for both ways to ask: as a request of the server's, and as a round of the call.
  client.setRequestHandler('elicitation/create', () => CONSENT)
  await client.connect(transport)
  const onprogress = (step: { progress: number }): void => void heard.progress.push(step.progress)
  // From 2026-07-28 on each request says what it wants to hear; before, this means nothing.
  const meta = { [LOG_LEVEL_META_KEY]: 'debug' }
  return {
    revision: client.getNegotiatedProtocolVersion(),
    session: transport.sessionId,
    heard,
    tools: async () => (await client.listTools()).tools,
    call: (name, args = {}) =>
      outcomeOf(() => client.callTool({ name, arguments: args, _meta: meta }, { onprogress })),
    read: (uri) => client.readResource({ uri }),
    async close() {
      if (sessionId === undefined) await transport.terminateSession()
      await client.close()
    },
  }
}
