import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, type IncomingHttpHeaders, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { requireProgram } from '../../haproxy-compat/programs.ts'
import { ask } from './fleet.ts'
import { until } from './mcp.ts'
import { freePort } from './ports.ts'

/** HAProxy as the fleet has it, before three servers that say what they got. */
export interface Front {
  readonly url: string
  readonly port: number
  readonly admin: (command: string) => Promise<string>
  /** What the servers say of themselves; HAProxy has seen it when this is done. */
  readonly are: (state: 'ready' | 'only live' | 'starting') => Promise<void>
  /** What a request had for headers when it came to a server. */
  readonly sent: (headers: Record<string, string>, body?: string) => Promise<Got>
  readonly stop: () => Promise<void>
}

interface Got {
  readonly response: Response
  readonly headers: IncomingHttpHeaders
}

// A request with this header is answered with the header it names; with this body, with none.
export const SAY = 'x-say'
export const DIE = 'die'

export async function startFront(env: Record<string, string> = {}): Promise<Front> {
  requireProgram('haproxy')
  const state = { ready: true, live: true }
  const servers = await Promise.all([1, 2, 3].map(() => startServer(state)))
  const folder = mkdtempSync(join(tmpdir(), 'front-'))
  const socket = join(folder, 'haproxy')
  const port = await freePort()
  const addresses = servers.map((server, at) => [`SERVER_${at + 1}`, `127.0.0.1:${portOf(server)}`])
  const child = spawn('haproxy', ['-W', '-f', 'haproxy-compat/haproxy.cfg'], {
    stdio: 'ignore',
    env: {
      ...process.env,
      HTTP_BIND: `127.0.0.1:${port}`,
      STATS_BIND: `127.0.0.1:${await freePort()}`,
      PEER_BIND: `127.0.0.1:${await freePort()}`,
      ADMIN_SOCKET: socket,
      ...Object.fromEntries(addresses),
      ...env,
    },
  })
  const exited = once(child, 'exit')
  const url = `http://127.0.0.1:${port}`
  const admin = (command: string): Promise<string> => ask(socket, command)
  const seen = async (backend: string, status: string): Promise<unknown> =>
    until(
      () => admin('show stat').catch(() => ''),
      (csv) => csv.match(new RegExp(`^${backend},mcp-server-.*,${status},`, 'gm'))?.length === 3,
    )
  const front: Front = {
    url,
    port,
    admin,
    async are(now) {
      state.ready = now === 'ready'
      state.live = now !== 'starting'
      await seen('mcp', state.ready ? 'UP' : 'DOWN')
      await seen('mcp_live', state.live ? 'UP' : 'DOWN')
    },
    async sent(headers, body = '{}') {
      const response = await fetch(`${url}/mcp`, { method: 'POST', headers, body })
      return { response, headers: (await response.json()) as IncomingHttpHeaders }
    },
    async stop() {
      child.kill('SIGTERM')
      await exited
      for (const server of servers) server.close()
      rmSync(folder, { recursive: true })
    },
  }
  await front.are('ready')
  return front
}

async function startServer(state: { ready: boolean; live: boolean }): Promise<Server> {
  const server = createServer((request, response) => {
    if (request.url === '/ready') return response.writeHead(state.ready ? 200 : 503).end()
    if (request.url === '/live') return response.writeHead(state.live ? 200 : 503).end()
    return void text(request).then((body) => {
      if (body.startsWith(DIE)) return request.socket.destroy()
      const [name, value = ''] = String(request.headers[SAY] ?? '').split('=')
      if (name) response.setHeader(name, value)
      return response.end(JSON.stringify(request.headers))
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return server
}

function portOf(server: Server): number {
  return (server.address() as AddressInfo).port
}
