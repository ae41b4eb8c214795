import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, type ServerResponse } from 'node:http'
import { createServer as createSilentServer, type AddressInfo, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it, onTestFinished } from 'vitest'
import { requireProgram } from '../../haproxy-compat/programs.ts'
import { supervise } from '../../haproxy-compat/supervise.ts'
import { until } from '../support/mcp.ts'
import { freePort } from '../support/ports.ts'

const REQUESTS = 12

it('while no instance is ready HAProxy asks the one that lives, and none that is dead', async () => {
  const { url, servers } = await startHaproxy([await refused(), await silent(), await live()])
  const [ready, alive] = [servers('mcp'), servers('mcp_live')]
  await until(ready, (all) => all.every(({ status }) => status === 'DOWN'))
  await until(alive, ([first, second]) => first?.status === 'DOWN' && second?.status === 'DOWN')

  for (let n = 0; n < REQUESTS; n++) expect(await (await fetch(url)).text()).toBe('live')
  const asked = { requests: 0, failures: 0 }
  expect(await ready()).toMatchObject([asked, asked, asked])
  expect(await alive()).toMatchObject([asked, asked, { ...asked, requests: REQUESTS }])
})

it('while none lives a request waits for the first that starts, whichever it is', async () => {
  const starts = await refused()
  const haproxy = await startHaproxy([await refused(), await refused(), starts])
  await noneLives(haproxy)
  const answers = askAll(haproxy)
  await until(haproxy.waiting, (count) => count === REQUESTS)
  await live(starts)
  expect(new Set(await answers)).toEqual(new Set(['live']))
})

it('while none lives a request finds the one that is only too busy to say so', async () => {
  const haproxy = await startHaproxy([await refused(), await busy(), await refused()])
  await noneLives(haproxy)
  expect(new Set(await askAll(haproxy))).toEqual(new Set(['live']))
})

type Haproxy = Awaited<ReturnType<typeof startHaproxy>>

async function noneLives({ servers }: Haproxy): Promise<void> {
  for (const backend of ['mcp', 'mcp_live']) {
    await until(servers(backend), (all) => all.every(({ status }) => status === 'DOWN'))
  }
}

function askAll({ url }: Haproxy): Promise<string[]> {
  return Promise.all(Array.from({ length: REQUESTS }, async () => (await fetch(url)).text()))
}

/** Nobody listens there. */
async function refused(): Promise<string> {
  return `127.0.0.1:${await freePort()}`
}

/** What hangs: its connections are accepted, and that is all. */
function silent(): Promise<string> {
  // HAProxy ends its checks with a reset.
  return listen(createSilentServer((socket) => void socket.on('error', () => undefined)))
}

/** It runs and does not reach its store. */
function live(address?: string): Promise<string> {
  const server = createServer((request, response) => {
    response.statusCode = request.url === '/ready' ? 503 : 200
    response.end('live')
  })
  return listen(server, address)
}

/** It fails all its checks, and answers none of the requests before all of them are there. */
function busy(): Promise<string> {
  const waiting: ServerResponse[] = []
  const server = createServer((request, response) => {
    if (request.url !== '/mcp') return response.writeHead(503).end()
    if (waiting.push(response) === REQUESTS) for (const one of waiting) one.end('live')
    return response
  })
  return listen(server)
}

async function listen(server: Server, address = '127.0.0.1:0'): Promise<string> {
  const [host, port] = address.split(':')
  server.listen(Number(port), host)
  await once(server, 'listening')
  onTestFinished(() => void server.close())
  return `127.0.0.1:${(server.address() as AddressInfo).port}`
}

interface ServerStat {
  readonly status: string
  /** How many it was given. */
  readonly requests: number
  /** Tries to reach it that came to nothing. */
  readonly failures: number
}

/** Before these instances, whose names are `mcp-server-1` and so on. */
async function startHaproxy(instances: readonly string[]) {
  requireProgram('haproxy')
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-haproxy-'))
  const [http, stats, peer] = [await freePort(), await freePort(), await freePort()]
  const env = {
    HTTP_BIND: `127.0.0.1:${http}`,
    STATS_BIND: `127.0.0.1:${stats}`,
    PEER_BIND: `127.0.0.1:${peer}`,
    ADMIN_SOCKET: join(folder, 'admin'),
    ...Object.fromEntries(instances.map((address, at) => [`SERVER_${at + 1}`, address])),
  }
  const args = ['-db', '-f', 'haproxy-compat/haproxy.cfg']
  const program = { name: 'haproxy', command: 'haproxy', args, env, folder, stopMs: 1000 }
  const haproxy = supervise({ ...program, logFile: join(folder, 'log') }, () => undefined)
  onTestFinished(async () => {
    await haproxy.stop()
    rmSync(folder, { recursive: true })
  })
  const csv = async (): Promise<string> =>
    (await fetch(`http://127.0.0.1:${stats}/stats;csv`)).text()
  await until(
    () => csv().catch(() => ''),
    (text) => text !== '',
  )
  return {
    url: `http://127.0.0.1:${http}/mcp`,
    /** The instances as one backend sees them. */
    servers: (backend: string) => async () => parseServers(await csv(), backend),
    /** How many requests wait for an instance that lives. */
    waiting: async () => Number(valuesOf(await csv(), 'mcp_live,BACKEND,')[0]?.('scur')),
  }
}

function parseServers(csv: string, backend: string): ServerStat[] {
  return valuesOf(csv, `${backend},mcp-server-`).map((value) => {
    const failures = ['econ', 'eresp', 'wretr', 'wredis'].map((name) => Number(value(name)))
    return {
      status: value('status'),
      requests: Number(value('stot')),
      failures: failures.reduce((sum, count) => sum + count, 0),
    }
  })
}

/** The columns by their names, of all lines that begin so. */
function valuesOf(csv: string, begin: string): ((name: string) => string)[] {
  const [head = '', ...lines] = csv.trim().split('\n')
  const names = head.replace('# ', '').split(',')
  return lines
    .filter((line) => line.startsWith(begin))
    .map((line) => (name) => line.split(',')[names.indexOf(name)] ?? '')
}
