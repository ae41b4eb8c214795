/**
 * The floor: the least that can serve a counter over MCP from Node and Redis. No SDK, no schemas,
 * no streams, no checks, no replies kept, one short script a call. What a call costs below this
 * line is Node's and Redis'.
 */
import { randomUUID } from 'node:crypto'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { createClient } from '@redis/client'

const SCRIPT = `
  local counter = redis.call('HINCRBY', KEYS[1], 'counter', 1)
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
  return counter`
const TTL_MS = String(30 * 60_000)

const { REDIS_URL = '', INSTANCE_ID = '', HOST = '', PORT } = process.env
const redis = createClient({ url: REDIS_URL })
await redis.connect()
const sha = await redis.scriptLoad(SCRIPT)

interface Message {
  readonly id?: number
  readonly method: string
}

createServer((request, response) => void serve(request, response)).listen(Number(PORT), HOST)

async function serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
  if (request.method === 'GET') return void response.end()
  const { id, method } = JSON.parse(await read(request)) as Message
  if (id === undefined) return void response.writeHead(202).end()
  const session = String(request.headers['mcp-session-id'] ?? randomUUID())
  const body = JSON.stringify({ jsonrpc: '2.0', id, result: await answer(method, session) })
  const headers = {
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(body),
    'mcp-session-id': session,
  }
  response.writeHead(200, headers).end(body)
}

async function answer(method: string, session: string): Promise<unknown> {
  if (method === 'initialize') {
    return {
      protocolVersion: '2025-11-25',
      capabilities: { tools: {} },
      serverInfo: { name: 'redis-floor', version: '0' },
    }
  }
  const counter = await redis.evalSha(sha, { keys: [session], arguments: [TTL_MS] })
  const structuredContent = { counter, instance: INSTANCE_ID }
  return {
    content: [{ type: 'text', text: JSON.stringify(structuredContent) }],
    structuredContent,
  }
}

async function read(request: IncomingMessage): Promise<string> {
  let body = ''
  request.setEncoding('utf8')
  for await (const chunk of request) body += chunk
  return body
}
