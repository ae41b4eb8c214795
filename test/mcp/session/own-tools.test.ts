import {
  InMemoryTransport,
  McpServer,
  UrlElicitationRequiredError,
  type JSONRPCMessage,
} from '@modelcontextprotocol/server'
import * as fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import * as z from 'zod'
import type { Call } from '../../../mcp/session/call.ts'
import { resultOf } from '../../../mcp/session/own-tools.ts'
import { REVISIONS } from '../../../mcp/session/revisions.ts'
import { createServer } from '../../../mcp/session/server.ts'
import { defineTool, type Pack } from '../../../mcp/session/tool.ts'
import { createLocalApp } from '../../support/local-app.ts'
import { initialize, openSession, rpc, toolCall } from '../../support/mcp.ts'
import { ask, replyTo } from '../../support/stateless.ts'

const THROWN = {
  error: new Error('No such kelp'),
  text: 'no error at all',
  page: new UrlElicitationRequiredError([
    { mode: 'url', message: 'Log in', url: 'https://example.com/login', elicitationId: 'e1' },
  ]),
} as const

const pack: Pack = {
  name: 'own',
  version: '1.2.3',
  tools: [
    defineTool({
      name: 'echo',
      description: 'Answers its input, as its schema has made it.',
      input: z.object({
        word: z.string().max(5),
        count: z.int().default(1),
        trimmed: z.string().trim().default(''),
      }),
      run: async (_call, input) => ({ input: { ...input } }),
    }),
    defineTool({
      name: 'later',
      description: 'Has a schema that takes its time.',
      input: z.object({ word: z.string().refine(async (word) => word !== 'kelp') }),
      run: async (_call, { word }) => ({ word }),
    }),
    defineTool({
      name: 'visit',
      description: 'Has a schema that throws.',
      input: z.object({ url: z.string().transform((url) => new URL(url)) }),
      run: async (_call, { url }) => ({ host: url.host }),
    }),
    defineTool({
      name: 'throws',
      description: 'Throws.',
      input: z.strictObject({ what: z.enum(['error', 'text', 'page']) }),
      run: async (_call, { what }) => Promise.reject(THROWN[what]),
    }),
    defineTool({
      name: 'nothing',
      description: 'Returns what no tool may.',
      input: z.strictObject({ list: z.boolean().optional() }),
      run: async (_call, { list }) => (list === true ? [1] : undefined) as never,
    }),
  ],
}

const word = fc.constantFrom('a', 'kelp', ' kelp ', 'too long')
const what = fc.constantFrom('error', 'text', 'page')
const echoed = fc.record(
  { word, count: fc.integer(), trimmed: word, more: fc.jsonValue() },
  { requiredKeys: ['word'] },
)
const json = fc.jsonValue().filter((value) => !JSON.stringify(value).includes('__proto__'))
const url = fc.constantFrom('https://example.com', 'no URL', '')
const NAMES = ['echo', 'later', 'visit', 'throws', 'nothing', 'unknown', 7, undefined]
const call = fc.oneof(
  fc.record({ name: fc.constant('echo'), arguments: echoed }),
  fc.record({ name: fc.constant('later'), arguments: fc.record({ word }) }),
  fc.record({ name: fc.constant('visit'), arguments: fc.record({ url }) }),
  fc.record({ name: fc.constant('throws'), arguments: fc.record({ what }) }),
  fc.record({
    name: fc.constant('nothing'),
    arguments: fc.constantFrom(undefined, {}, null, { list: true }),
  }),
  fc.record({ name: fc.constantFrom(...NAMES), arguments: fc.oneof(echoed, json) }),
)
const meta = fc.constantFrom(undefined, {}, { progressToken: 'p' }, { 'example.com/more': [1] })
const others = fc.option(
  fc.constantFrom<object>(
    { idempotencyKey: 'k' },
    { more: 1 },
    { task: { ttl: 1 } },
    { task: 1 },
    { requestState: 's' },
    { inputResponses: {} },
    { inputResponses: 1 },
  ),
  { freq: 1 },
)
const params = fc
  .record({ call, _meta: meta, others })
  .map(({ call: called, _meta, others: more }) => ({ ...called, _meta, ...more }))

describe('a tool of the pack’s own, past the SDK', () => {
  it('answers in a session as it does in the SDK’s server', async () => {
    const { fetch } = createLocalApp({ pack })
    const askSdk = await connectSdk()
    await fc.assert(
      fc.asyncProperty(params, async (given) => {
        const request = { jsonrpc: '2.0', id: 5, method: 'tools/call', params: given } as const
        const session = await openSession(fetch)
        expect(await rpc(fetch, session, request)).toEqual(await askSdk(request))
      }),
      { numRuns: 500, seed: 20_261_121 },
    )
  })

  it('fails if it returns anything but an object', async () => {
    const { fetch } = createLocalApp({ pack })
    const session = await openSession(fetch)
    for (const input of [{}, { list: true }]) {
      const { result } = await rpc(fetch, session, toolCall('nothing', input))
      const [said] = result?.content ?? []
      expect([result?.isError, said?.text]).toEqual([
        true,
        'Cannot answer call: its tool has returned no object',
      ])
    }
  })

  it('fails without a session if the SDK cannot put its question', async () => {
    const asks = defineTool({
      name: 'asks',
      description: 'Asks.',
      input: z.strictObject({}),
      stateless: true,
      run: async (its) => {
        const requestedSchema = { type: 'object' as const, properties: {} }
        return { action: (await its.elicit({ message: 'Sure?', requestedSchema })).action }
      },
    })
    const extend = (): never => {
      throw new Error('Not now')
    }
    const { fetch } = createLocalApp({ pack: { tools: [asks], extend } })
    const given = { name: 'asks', arguments: {} }
    const response = await fetch(ask('tools/call', given, { capabilities: { elicitation: {} } }))
    expect(await replyTo(response)).toMatchObject({ id: 1, error: { code: -32603 } })
  })

  it('answers without a session as it does through the SDK’s handler', async () => {
    const plain = createLocalApp({ pack: stateless(pack) })
    // What a server of somebody else's offers goes through the handler, whatever it is.
    const handled = createLocalApp({ pack: handledBySdk(stateless(pack)) })
    const capabilities = fc.constantFrom({}, { elicitation: {} }, { sampling: 1 }, { roots: {} })
    const level = fc.constantFrom(undefined, undefined, 'info', 'loud')
    const info = fc.constantFrom(
      {},
      { clientInfo: { name: 'n', version: '1' } },
      { clientInfo: {} },
    )
    const client = fc.tuple(capabilities, level, info)
    await fc.assert(
      fc.asyncProperty(params, client, async ({ _meta, ...given }, [can, least, who]) => {
        const more = {
          capabilities: can,
          ...who,
          ...(least !== undefined && { level: least }),
          ...(_meta !== undefined && 'progressToken' in _meta && { progressToken: 'p' }),
        }
        const [ours, sdks] = await Promise.all(
          [plain, handled].map(async ({ fetch }) => {
            const response = await fetch(ask('tools/call', given, more))
            return { status: response.status, reply: await replyTo(response) }
          }),
        )
        expect(ours).toEqual(sdks)
      }),
      { numRuns: 500, seed: 20_261_121 },
    )
  })
})

/** Puts a request to an SDK's server with the same tools, and nothing of ours around it. */
async function connectSdk() {
  const server = createServer(
    pack,
    {
      instance: 'sdk',
      run: async (tool, input) => resultOf(await tool.run({} as Call, input)),
      stateOf: async () => undefined,
    },
    { revisions: REVISIONS },
  )
  const [client, its] = InMemoryTransport.createLinkedPair()
  await server.connect(its)
  await client.start()
  const put = async (request: JSONRPCMessage): Promise<JSONRPCMessage> => {
    const { promise, resolve } = Promise.withResolvers<JSONRPCMessage>()
    client.onmessage = resolve
    await client.send(request)
    return promise
  }
  await put(initialize)
  return async (request: object) => JSON.parse(JSON.stringify(await put(request as JSONRPCMessage)))
}

function stateless({ tools, ...rest }: Pack): Pack {
  return { ...rest, tools: tools.map((tool) => ({ ...tool, stateless: true })) }
}

function handledBySdk({ name: its = '', version = '', ...rest }: Pack): Pack {
  return { ...rest, server: () => new McpServer({ name: its, version }) }
}
