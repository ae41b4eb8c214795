import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client'
import { onTestFinished } from 'vitest'

export interface Connected {
  readonly client: Client
  readonly transport: StreamableHTTPClientTransport
  readonly session: string
  /** Level and text of the log messages that have come so far. */
  readonly logs: readonly (readonly [string, string])[]
  readonly call: (
    tool: string,
    args?: Record<string, unknown>,
  ) => Promise<Record<string, unknown> | undefined>
}

/** The official client until the test ends: on a session of its own, or on one that is there. */
export async function connect(url: string, sessionId?: string): Promise<Connected> {
  const client = new Client({ name: 'test', version: '0.0.0' })
  const transport = new StreamableHTTPClientTransport(
    new URL(url),
    sessionId === undefined ? {} : { sessionId },
  )
  const logs: [string, string][] = []
  client.setNotificationHandler('notifications/message', ({ params }) => {
    logs.push([params.level, (params.data as { msg: string }).msg])
  })
  await client.connect(transport)
  onTestFinished(() => client.close())
  return {
    client,
    transport,
    session: transport.sessionId ?? '',
    logs,
    async call(name, args = {}) {
      const result = await client.callTool({ name, arguments: args })
      return result.structuredContent as Record<string, unknown> | undefined
    },
  }
}
