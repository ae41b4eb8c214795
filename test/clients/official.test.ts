import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import type {
  Client as ClientV2,
  StreamableHTTPClientTransport as TransportV2,
} from '@modelcontextprotocol/client'
import { Client as ClientV1 } from '@modelcontextprotocol/sdk/client/index.js'
import { StreamableHTTPClientTransport as TransportV1 } from '@modelcontextprotocol/sdk/client/streamableHttp.js'
import { LoggingMessageNotificationSchema } from '@modelcontextprotocol/sdk/types.js'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { connect } from '../support/client.ts'
import { startWrangler, type Wrangler } from '../support/wrangler.ts'

describe('official clients, on the edge', () => {
  let server: Wrangler

  beforeAll(async () => {
    server = await startWrangler()
  })
  afterAll(() => server.kill())

  it('v1 lists, calls, hears logs and progress, reads and ends its session', async () => {
    const client = new ClientV1({ name: 'test', version: '0.0.0' })
    const transport = new TransportV1(new URL(`${server.url}/mcp`))
    await client.connect(transport)
    const levels: string[] = []
    client.setNotificationHandler(LoggingMessageNotificationSchema, ({ params }) => {
      levels.push(params.level)
    })
    await expectAll({
      client,
      transport,
      call: (tool, onprogress) => client.callTool(tool, undefined, { onprogress }),
      levels: () => levels,
    })
  })

  it('v2 lists, calls, hears logs and progress, reads and ends its session', async () => {
    const { client, transport, logs } = await connect(`${server.url}/mcp`)
    await expectAll({
      client,
      transport,
      call: (tool, onprogress) => client.callTool(tool, { onprogress }),
      levels: () => logs.map(([level]) => level),
    })
  })

  it('the Inspector lists and calls from the command line', async () => {
    const list = await inspect(server, ['--method', 'tools/list'])
    expect(list['tools']).toHaveLength(10)
    const call = ['--method', 'tools/call', '--tool-name', 'add_note', '--tool-arg', 'note=hello']
    const { structuredContent } = await inspect(server, call)
    expect(structuredContent).toMatchObject({ notes_count: 1 })
  })
})

interface Official {
  readonly client: ClientV1 | ClientV2
  readonly transport: TransportV1 | TransportV2
  readonly call: (
    tool: { name: string; arguments: Record<string, unknown> },
    onprogress: (step: { progress: number }) => void,
  ) => Promise<unknown>
  /** Of the log messages that have come. */
  readonly levels: () => readonly string[]
}

async function expectAll({ client, transport, call, levels }: Official): Promise<void> {
  expect((await client.listTools()).tools).toHaveLength(10)
  const first = await client.callTool({ name: 'increment_counter', arguments: {} })
  expect(first.structuredContent).toMatchObject({ counter: 1 })
  const progress: unknown[] = []
  const analyze = { name: 'analyze_data', arguments: { num_items: 2 } }
  const analysis = await call(analyze, (step) => void progress.push(step.progress))
  expect(analysis).toMatchObject({ structuredContent: { total_score: 4.5 } })
  expect(levels()).toEqual(['info', 'debug', 'debug', 'debug', 'info', 'info'])
  expect(progress).toEqual([0, 1, 2])
  const uri = `resource://session/${transport.sessionId}/summary`
  expect(JSON.stringify(await client.readResource({ uri }))).toContain('\\"counter\\": 1')
  await transport.terminateSession()
  await client.close()
}

async function inspect(
  { url }: Wrangler,
  args: readonly string[],
): Promise<Record<string, unknown>> {
  const server = ['--cli', `${url}/mcp`, '--transport', 'http', '--format', 'json', '-q']
  const { stdout } = await promisify(execFile)('npx', ['mcp-inspector', ...server, ...args])
  return (JSON.parse(stdout) as { result: Record<string, unknown> }).result
}
