/**
 * The official SDK's own example (`examples/server/simpleStreamableHttp`), with a counter in Redis:
 * express, one transport and one server a session, both in memory, answers as SSE. Left out to its
 * advantage: a log line a request, the event store, the sweep of idle sessions.
 */
import { randomUUID } from 'node:crypto'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { McpServer } from '@modelcontextprotocol/sdk/server/mcp.js'
import { createMcpExpressApp } from '@modelcontextprotocol/sdk/server/express.js'
import { StreamableHTTPServerTransport } from '@modelcontextprotocol/sdk/server/streamableHttp.js'
import { isInitializeRequest } from '@modelcontextprotocol/sdk/types.js'
import { createClient } from '@redis/client'
import * as z from 'zod'

const { REDIS_URL = '', INSTANCE_ID = '', HOST = '', PORT } = process.env
const redis = createClient({ url: REDIS_URL })
await redis.connect()
const transports = new Map<string, StreamableHTTPServerTransport>()

const app = createMcpExpressApp()
app.post('/mcp', handle)
createServer((request, response) => {
  // Before the app, which refuses requests without a Host header: HAProxy's checks have none.
  if (request.url === '/ready' || request.url === '/live') response.end()
  else app(request, response)
}).listen(Number(PORT), HOST)

interface Parsed extends IncomingMessage {
  readonly body: unknown
}

async function handle(request: Parsed, response: ServerResponse): Promise<void> {
  const id = request.headers['mcp-session-id']
  const transport = typeof id === 'string' ? transports.get(id) : await open(request.body)
  if (transport === undefined) response.writeHead(404).end()
  else await transport.handleRequest(request, response, request.body)
}

async function open(body: unknown): Promise<StreamableHTTPServerTransport | undefined> {
  if (!isInitializeRequest(body)) return undefined
  const transport = new StreamableHTTPServerTransport({
    sessionIdGenerator: () => randomUUID(),
    onsessioninitialized: (id) => void transports.set(id, transport),
  })
  await createCounter().connect(transport)
  return transport
}

function createCounter(): McpServer {
  const server = new McpServer({ name: 'sdk-server', version: '0.0.0' })
  server.registerTool(
    'increment_counter',
    {
      description: "Adds one to this session's counter.",
      inputSchema: {},
      outputSchema: { counter: z.number(), instance: z.string() },
    },
    async (_, { sessionId = '' }) => {
      const structuredContent = { counter: await redis.incr(sessionId), instance: INSTANCE_ID }
      return {
        content: [{ type: 'text', text: JSON.stringify(structuredContent) }],
        structuredContent,
      }
    },
  )
  return server
}
