import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { freeBase } from './ports.ts'
import { until, type Fetch } from './mcp.ts'

/** Of the ports of a fleet. */
export const OFFSETS = [1, 2, 3, 5, 6, 80, 404]

/** What `npm run fleet` writes to `fleet.json`; the URL of Redis is the operator's. */
interface FleetMap {
  readonly haproxy: { url: string; statsUrl: string; socket: string; pid: number | null }
  readonly redis: { url: string; pid: number | null }
  readonly instances: readonly { id: string; url: string; pid: number | null }[]
}

/** One `server` line of HAProxy's backend `mcp`. */
interface ServerStat {
  readonly name: string
  readonly status: string
  /** How many requests it was given. */
  readonly requests: number
}

export interface Fleet {
  readonly fetch: Fetch
  readonly folder: string
  readonly url: string
  readonly map: () => FleetMap
  /** The process of `haproxy`, `redis`, an instance, or the `supervisor` of them all. */
  readonly pid: (name: string) => number | null
  /** Sends a signal to one of them. */
  readonly signal: (name: string, signal: NodeJS.Signals) => void
  /** A command for HAProxy's admin socket, and what it says to it. */
  readonly admin: (command: string) => Promise<string>
  /** The instances as HAProxy sees them. */
  readonly servers: () => Promise<readonly ServerStat[]>
  /** Waits until HAProxy sees all instances so: `UP` or `DOWN`. */
  readonly allAre: (status: string) => Promise<void>
  /** Stops it as Ctrl-C does; answers its exit code. */
  readonly stop: () => Promise<number | null>
}

/** A fleet of its own, on ports of its own, as `npm run fleet` makes it. */
export async function startFleet(env: Record<string, string> = {}): Promise<Fleet> {
  const folder = env['FLEET_DIR'] ?? mkdtempSync(join(tmpdir(), 'holdfast-fleet-'))
  const base = await freeBase(OFFSETS)
  const child = spawn('node', ['haproxy-compat/fleet.ts'], {
    env: { ...process.env, FLEET_DIR: folder, FLEET_PORT_BASE: String(base), ...env },
  })
  let output = ''
  const serving = Promise.withResolvers<void>()
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (text) => {
      output += text
      if (output.includes('serves')) serving.resolve()
    })
  }
  const exited = once(child, 'exit') as Promise<[number | null]>
  void exited.then(() => serving.reject(new Error(`The fleet has stopped:\n${output}`)))
  await serving.promise
  const map = (): FleetMap => JSON.parse(readFileSync(join(folder, 'fleet.json'), 'utf8'))
  const url = `${map().haproxy.url}/mcp`
  const servers = async (): Promise<ServerStat[]> =>
    parseServers(await ask(map().haproxy.socket, 'show stat'))
  const pidOf = (name: string): number | null => {
    const { haproxy, redis, instances } = map()
    if (name === 'supervisor') return child.pid ?? null
    if (name === 'haproxy') return haproxy.pid
    if (name === 'redis') return redis.pid
    return instances.find(({ id }) => id === name)?.pid ?? null
  }
  return {
    folder,
    url,
    map,
    pid: pidOf,
    signal(name, signal) {
      const pid = pidOf(name)
      if (pid === null) throw new Error(`${name} does not run`)
      process.kill(pid, signal)
    },
    fetch: fetchFrom(url),
    admin: (command) => ask(map().haproxy.socket, command),
    servers,
    async allAre(status) {
      await until(servers, (all) => all.every((server) => server.status === status))
    },
    async stop() {
      child.kill('SIGTERM')
      const [code] = await exited
      rmSync(folder, { recursive: true, force: true })
      return code
    },
  }
}

/** Sends requests to where `url` points, whatever host they name. */
export function fetchFrom(url: string): Fetch {
  return (request) => fetch(new Request(new URL(new URL(request.url).pathname, url), request))
}

function parseServers(csv: string): ServerStat[] {
  const [head = '', ...lines] = csv.trim().split('\n')
  const names = head.replace('# ', '').split(',')
  const rows = lines.map((line) => {
    const values = line.split(',')
    return (name: string): string => values[names.indexOf(name)] ?? ''
  })
  return rows
    .filter((row) => row('pxname') === 'mcp' && row('svname').startsWith('mcp-server-'))
    .map((row) => ({ name: row('svname'), status: row('status'), requests: Number(row('stot')) }))
}

/** A command for the admin socket of a HAProxy, and what it says to it. */
export async function ask(socket: string, command: string): Promise<string> {
  const connection = connect(socket)
  connection.end(`${command}\n`)
  let answer = ''
  for await (const chunk of connection) answer += chunk
  return answer
}
