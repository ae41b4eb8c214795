import { createServer, connect, type AddressInfo, type Socket } from 'node:net'
import { once } from 'node:events'
import { serve, type ServerType } from '@hono/node-server'
import type { FetchLike } from '@modelcontextprotocol/client'
import type { ClientEvent } from '../../client/events.ts'
import { ResilientClient } from '../../client/resilient-client.ts'
import type { ResilientOptions } from '../../client/resilient-transport.ts'
import { createLocalApp, type LocalAppOptions } from '../support/local-app.ts'
import type { Fetch } from '../support/mcp.ts'

/** One request as it came to the service. */
export interface Seen {
  readonly method: string
  readonly id: unknown
  readonly rpc: string | undefined
  readonly tool: string | undefined
  readonly session: string | null
  readonly key: unknown
  readonly lastEventId: string | null
  readonly request: Request
}

type Handle = (seen: Seen, forward: (request?: Request) => Promise<Response>) => Promise<Response>

/** A server in this process that writes down what it is asked, and fails as `handle` says. */
export class Service {
  readonly seen: Seen[] = []
  readonly app: ReturnType<typeof createLocalApp>
  handle: Handle = (_seen, forward) => forward()

  constructor(options: LocalAppOptions = {}) {
    this.app = createLocalApp({ ...options, env: { STREAM_RETRY_MS: '1', ...options.env } })
  }

  readonly fetch: FetchLike = async (url, init) => {
    const request = new Request(url, init)
    const seen = await readSeen(request.clone())
    this.seen.push(seen)
    const answer = this.handle(seen, async (changed = request) => this.app.fetch(changed))
    return Promise.race([answer, aborted(request.signal)])
  }

  calls(tool: string): Seen[] {
    return this.seen.filter((seen) => seen.tool === tool)
  }

  rpcs(method: string): Seen[] {
    return this.seen.filter((seen) => seen.rpc === method)
  }
}

async function readSeen(request: Request): Promise<Seen> {
  const { method, headers } = request
  const text = await request.text()
  const {
    id,
    method: rpc,
    params,
  } = (text === '' ? {} : JSON.parse(text)) as {
    id?: unknown
    method?: string
    params?: { name?: string; idempotencyKey?: string; _meta?: Record<string, unknown> }
  }
  return {
    method,
    id,
    rpc,
    tool: rpc === 'tools/call' ? params?.name : undefined,
    session: headers.get('mcp-session-id'),
    key: params?._meta?.['dev.holdfast/idempotency-key'] ?? params?.idempotencyKey,
    lastEventId: headers.get('last-event-id'),
    request,
  }
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_resolve, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason), { once: true })
  })
}

/** Long enough for what must not happen to happen, were it to: no condition tells of that. */
export function aWhile(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 30))
}

export const URL_ONE = 'http://localhost/mcp'

/** A connected client, and what it has told. Waits are 0 unless a server asks for more. */
export async function connectTo(
  service: Service | FetchLike | undefined,
  urls: string | string[] = URL_ONE,
  { transport, ...options }: ResilientOptions = {},
): Promise<{ client: ResilientClient; events: ClientEvent[] }> {
  const events: ClientEvent[] = []
  const fetch = service instanceof Service ? service.fetch : service
  const client = new ResilientClient(
    { name: 'test', version: '0' },
    {
      urls,
      random: () => 0,
      onEvent: (event) => void events.push(event),
      transport: { ...(fetch && { fetch }), ...transport },
      ...options,
    },
  )
  await client.connect()
  return { client, events }
}

/** The calls' own failures, without those of the standalone stream. */
export function failures(events: ClientEvent[]): (ClientEvent & { event: 'attempt_failed' })[] {
  return events
    .filter((event) => event.event === 'attempt_failed')
    .filter(({ method }) => method !== 'GET request')
}

export async function counterOf(client: ResilientClient): Promise<unknown> {
  return contentOf(await client.callTool({ name: 'get_counter', arguments: {} }))['counter']
}

export async function increment(client: ResilientClient): Promise<unknown> {
  return contentOf(await client.callTool({ name: 'increment_counter', arguments: {} }))['counter']
}

function contentOf(result: { structuredContent?: unknown }): Record<string, unknown> {
  return result.structuredContent as Record<string, unknown>
}

/** `response` with its body broken off after `count` events, by an error or by an end. */
export function cutAfter(count: number, response: Response, how: 'breaks' | 'ends'): Response {
  const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader()
  let text = ''
  let left = count
  const body = new ReadableStream<Uint8Array>({
    async pull(controller) {
      if (left === 0) {
        await reader?.cancel()
        if (how === 'breaks') throw new TypeError('terminated')
        return controller.close()
      }
      while (!text.includes('\n\n')) {
        const next = await reader?.read()
        if (next?.done !== false) return controller.close()
        text += next.value
      }
      const end = text.indexOf('\n\n') + 2
      controller.enqueue(new TextEncoder().encode(text.slice(0, end)))
      text = text.slice(end)
      left -= 1
    },
  })
  return new Response(body, response)
}

/** An app behind a real socket. */
export async function listen(
  app: Fetch,
  port = 0,
): Promise<{ url: string; stop: () => Promise<void> }> {
  const server = await new Promise<ServerType>((resolve) => {
    const started = serve({ fetch: app, port, hostname: '127.0.0.1' }, () => resolve(started))
  })
  const { port: own } = server.address() as AddressInfo
  return {
    url: `http://127.0.0.1:${own}/mcp`,
    async stop() {
      if ('closeAllConnections' in server) server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

export interface Proxy {
  readonly url: string
  /** Breaks the connection of the next tool call when its reply comes, before any is passed on. */
  loseReply: boolean
  readonly stop: () => Promise<void>
}

/** Stands in front of a real server, and resets connections once the server has done its work. */
export async function startProxy(target: string): Promise<Proxy> {
  const { port: to } = new URL(target)
  const sockets = new Set<Socket>()
  const server = createServer((client) => {
    const upstream = connect(Number(to), '127.0.0.1')
    for (const socket of [client, upstream]) {
      sockets.add(socket)
      socket.on('error', () => undefined)
      socket.on('close', () => [client, upstream].forEach((one) => one.destroy()))
    }
    let calls = false
    client.on('data', (chunk) => {
      calls ||= chunk.includes('"tools/call"')
      upstream.write(chunk)
    })
    upstream.on('data', (chunk) => {
      if (calls && proxy.loseReply) client.resetAndDestroy()
      else client.write(chunk)
      if (calls) proxy.loseReply = false
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const proxy: Proxy = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/mcp`,
    loseReply: false,
    async stop() {
      for (const socket of sockets) socket.destroy()
      await new Promise((resolve) => server.close(resolve))
    },
  }
  return proxy
}
