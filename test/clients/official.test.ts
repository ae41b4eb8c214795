import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import {
  Client as ClientV2,
  StreamableHTTPClientTransport as TransportV2,
} from '@modelcontextprotocol/client'
import { Client as ClientV1 } from '@modelcontextprotocol/sdk/client/index.js'
import { StreamableHTTPClientTransport as TransportV1 } from '@modelcontextprotocol/sdk/client/streamableHttp.js'
import { LoggingMessageNotificationSchema } from '@modelcontextprotocol/sdk/types.js'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startWrangler, type Wrangler } from '../support/wrangler.ts'

describe('official clients, on the edge', () => {
  let server: Wrangler
  const info = { name: 'test', version: '0.0.0' }

  beforeAll(async () => {
    server = await startWrangler()
  })
  afterAll(() => server.kill())

  it('v1 lists, calls, hears logs and progress, reads and ends its session', async () => {
    const client = new ClientV1(info)
    const transport = new TransportV1(new URL(`${server.url}/mcp`))
    await client.connect(transport)
    const logs: unknown[] = []
    client.setNotificationHandler(LoggingMessageNotificationSchema, ({ params }) => {
      logs.push(params.level)
    })
    expect((await client.listTools()).tools).toHaveLength(9)
    const first = await client.callTool({ name: 'increment_counter', arguments: {} })
    expect(first.structuredContent).toMatchObject({ counter: 1 })
    const progress: unknown[] = []
    const analyze = { name: 'analyze_data', arguments: { num_items: 2 } }
    const result = await client.callTool(analyze, undefined, {
      onprogress: (step) => void progress.push(step.progress),
    })
    expect(result.structuredContent).toMatchObject({ total_score: 4.5 })
    expect(logs).toEqual(['info', 'debug', 'debug', 'debug', 'info', 'info'])
    expect(progress).toEqual([0, 1, 2])
    const uri = `resource://session/${transport.sessionId}/summary`
    expect(JSON.stringify(await client.readResource({ uri }))).toContain('\\"counter\\": 1')
    await transport.terminateSession()
    await client.close()
  })

  it('v2 lists, calls, hears logs and progress, reads and ends its session', async () => {
    const client = new ClientV2(info)
    const transport = new TransportV2(new URL(`${server.url}/mcp`))
    const logs: unknown[] = []
    client.setNotificationHandler(
      'notifications/message',
      ({ params }) => void logs.push(params.level),
    )
    await client.connect(transport)
    expect((await client.listTools()).tools).toHaveLength(9)
    const first = await client.callTool({ name: 'increment_counter', arguments: {} })
    expect(first.structuredContent).toMatchObject({ counter: 1 })
    const progress: unknown[] = []
    const analyze = { name: 'analyze_data', arguments: { num_items: 2 } }
    const result = await client.callTool(analyze, {
      onprogress: (step) => void progress.push(step.progress),
    })
    expect(result.structuredContent).toMatchObject({ total_score: 4.5 })
    expect(logs).toEqual(['info', 'debug', 'debug', 'debug', 'info', 'info'])
    expect(progress).toEqual([0, 1, 2])
    const uri = `resource://session/${transport.sessionId}/summary`
    expect(JSON.stringify(await client.readResource({ uri }))).toContain('\\"counter\\": 1')
    await transport.terminateSession()
    await client.close()
  })

  it('the Inspector lists and calls from the command line', async () => {
    const list = await inspect(server, ['--method', 'tools/list'])
    expect(list['tools']).toHaveLength(9)
    const call = ['--method', 'tools/call', '--tool-name', 'add_note', '--tool-arg', 'note=hello']
    const { structuredContent } = await inspect(server, call)
    expect(structuredContent).toMatchObject({ notes_count: 1 })
  })
})

async function inspect(
  { url }: Wrangler,
  args: readonly string[],
): Promise<Record<string, unknown>> {
  const server = ['--cli', `${url}/mcp`, '--transport', 'http', '--format', 'json', '-q']
  const { stdout } = await promisify(execFile)('npx', ['mcp-inspector', ...server, ...args])
  return (JSON.parse(stdout) as { result: Record<string, unknown> }).result
}
