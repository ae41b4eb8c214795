import { execFile } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { createClient, type RedisClientType } from '@redis/client'
import { fetchFrom, startFleet, type Fleet } from '../support/fleet.ts'
import type { Fetch } from '../support/mcp.ts'
import { startNode } from '../support/node.ts'
import { startWrangler } from '../support/wrangler.ts'

export type TopologyName = 'node' | 'fleet' | 'edge'

type Settings = Record<string, string>

/** One way to run the server, as whole processes. */
export interface Topology {
  readonly name: TopologyName
  readonly port: number
  readonly fetch: Fetch
  /** All that is kept of all sessions, as far as it can be seen from outside. */
  readonly kept: () => Promise<readonly string[]>
  /** The processes that serve. */
  readonly pids: () => Promise<readonly (number | null)[]>
  /** What the store was asked for of sessions while `act` ran; `undefined` where nobody can look. */
  readonly asked: (act: () => Promise<unknown>) => Promise<readonly string[] | undefined>
  /** How many requests have reached an instance; `undefined` where nothing is in front of it. */
  readonly passed: () => Promise<number | undefined>
  /** All that the servers have logged; `undefined` where it goes where nobody reads it. */
  readonly logged: () => string | undefined
  readonly stop: () => Promise<unknown>
}

/** Each takes the settings of a server, as environment variables. */
export const START: Readonly<Record<TopologyName, (settings?: Settings) => Promise<Topology>>> = {
  node: startNodeAlone,
  fleet: startWholeFleet,
  edge: startEdge,
}

export const TOPOLOGIES = Object.keys(START) as TopologyName[]

async function startNodeAlone(settings?: Settings): Promise<Topology> {
  const { url, fetch, pid, kill } = await startNode(settings)
  return {
    name: 'node',
    port: Number(new URL(url).port),
    fetch,
    // In its memory. What it counts are sessions that have state.
    kept: () => Promise.resolve([]),
    pids: () => Promise.resolve([isAlive(pid) ? pid : null]),
    asked: async (act) => void (await act()),
    passed: () => Promise.resolve(undefined),
    logged: () => undefined,
    stop: () => kill('SIGKILL'),
  }
}

async function startWholeFleet(settings?: Settings): Promise<Topology> {
  const fleet = await startFleet(settings)
  const redis: RedisClientType = createClient({ url: fleet.map().redis.url })
  await redis.connect()
  return {
    name: 'fleet',
    port: Number(new URL(fleet.url).port),
    fetch: fleet.fetch,
    kept: () => keptIn(redis),
    pids() {
      const { haproxy, redis: store, instances } = fleet.map()
      return Promise.resolve([haproxy, store, ...instances].map(({ pid }) => pid))
    },
    asked: async (act) => (await commandsDuring(redis, act)).filter(isOfSession),
    passed: () => passedBy(fleet),
    logged: () => logsIn(fleet.folder),
    async stop() {
      redis.destroy()
      return fleet.stop()
    },
  }
}

/** What instances tell each other all the time is none. */
function isOfSession(text: string): boolean {
  return text.includes('mcp:{') && !text.includes('mcp:{board}')
}

/** A line for each key of a session, with all that is in it: states, reply records, streams. */
async function keptIn(redis: RedisClientType): Promise<string[]> {
  const keys = (await redis.keys('mcp:{*')).filter(isOfSession).toSorted()
  return Promise.all(
    keys.map(async (key) => {
      const isHash = (await redis.type(key)) === 'hash'
      const kept = isHash ? await redis.hGetAll(key) : await redis.zRange(key, 0, -1)
      return `${key} ${JSON.stringify(kept)}`
    }),
  )
}

/** All commands that Redis gets meanwhile. */
async function commandsDuring(redis: RedisClientType, act: () => Promise<unknown>) {
  const commands: string[] = []
  const monitor = redis.duplicate()
  await monitor.connect()
  await monitor.monitor((line) => void commands.push(line))
  await act()
  // What comes behind it was sent after all that came before.
  const marker = `asked-${commands.length}`
  await redis.echo(marker)
  while (!commands.some((line) => line.includes(marker))) await new Promise(setImmediate)
  monitor.destroy()
  return commands.filter((line) => !line.includes(marker))
}

async function passedBy(fleet: Fleet): Promise<number> {
  const servers = await fleet.servers()
  return servers.reduce((sum, { requests }) => sum + requests, 0)
}

function logsIn(folder: string): string {
  const files = readdirSync(folder).filter((file) => file.endsWith('.log'))
  return files.map((file) => readFileSync(join(folder, file), 'utf8')).join('')
}

async function startEdge(settings?: Settings): Promise<Topology> {
  const config = configOf(settings)
  const { url, port, state, kill } = await startWrangler(config)
  const objects = (): string[] =>
    readdirSync(join(state, 'v3/do'), { recursive: true, encoding: 'utf8' })
      .filter((file) => file.includes('McpSession') && file.endsWith('.sqlite'))
      .toSorted()
  return {
    name: 'edge',
    port,
    fetch: fetchFrom(`${url}/mcp`),
    kept: () => Promise.resolve(objects()),
    pids: () => processesOf(state),
    async asked(act) {
      const before = objects()
      await act()
      return objects().filter((file) => !before.includes(file))
    },
    passed: () => Promise.resolve(undefined),
    logged: () => undefined,
    async stop() {
      await kill()
      if (config.config !== undefined) rmSync(dirname(config.config), { recursive: true })
    },
  }
}

/** Settings of a Worker are in its configuration. */
function configOf(settings: Settings = {}): { config?: string } {
  const vars = Object.entries(settings).map(([name, value]) => `${name} = ${JSON.stringify(value)}`)
  if (vars.length === 0) return {}
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-config-'))
  const config = join(folder, 'wrangler.toml')
  const text = readFileSync('wrangler.toml', 'utf8')
    .replace('main = "', `main = "${process.cwd()}/`)
    .replace('[vars]', ['[vars]', ...vars].join('\n'))
  writeFileSync(config, text)
  return { config }
}

/** The workerd processes below the one that was started with `folder`. */
async function processesOf(folder: string): Promise<number[]> {
  const { stdout } = await promisify(execFile)('ps', ['-eo', 'pid=,ppid=,args='])
  const all = stdout.split('\n').map((line) => {
    const [pid, parent, ...args] = line.trim().split(/\s+/)
    return { pid: Number(pid), parent: Number(parent), args }
  })
  const below = new Set(all.filter(({ args }) => args.includes(folder)).map(({ pid }) => pid))
  // Parents come before their children.
  for (const { pid, parent } of all) if (below.has(parent)) below.add(pid)
  const serving = all.filter(({ pid, args }) => below.has(pid) && args[0]?.endsWith('workerd'))
  return serving.map(({ pid }) => pid)
}

/** How much memory processes have in all, in bytes. */
export async function memoryOf(pids: readonly (number | null)[]): Promise<number> {
  const { stdout } = await promisify(execFile)('ps', ['-o', 'rss=', '-p', pids.join()])
  const kilobytes = stdout.trim().split(/\s+/).map(Number)
  return kilobytes.reduce((sum, size) => sum + size, 0) * 1024
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch {
    return false
  }
}
