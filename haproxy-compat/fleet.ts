/**
 * The whole fleet as plain processes on loopback, without Docker: `npm run fleet`. Redis, three
 * instances, HAProxy. While it runs, `.fleet/fleet.json` says what runs where. What dies is started
 * again; Ctrl-C stops all.
 */
import { createHash, randomBytes } from 'node:crypto'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { text as textOf } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import * as z from 'zod'
import { parseSettings } from '../mcp/config.ts'
import { INSTANCE_FLAGS, requireProgram } from './programs.ts'
import { supervise, type Program, type Supervised } from './supervise.ts'

const HOST = '127.0.0.1'
const INSTANCES = [1, 2, 3]
const STOP_MS = 40_000
const REDIS_ARGS = ['--bind', HOST, '--save', '', '--appendonly', 'yes', '--appendfsync', 'always']

type Settings = z.output<typeof schema>

const schema = z.object({
  /** HAProxy is 80 above it, its statistics 404, the instances 1 to 3, Redis 5, HAProxy's peer 6. */
  FLEET_PORT_BASE: z.coerce.number().int().min(1024).max(65_000).default(8000),
  /** For logs, Redis' data, the secrets, and `fleet.json`. */
  FLEET_DIR: z.string().default('.fleet'),
  HAPROXY_CONFIG: z.string().default(here('haproxy.cfg')),
  /** What an instance runs. */
  SERVER_ENTRY: z.string().default(here('server.ts')),
})

/** What is read of `fleet.json`. */
const part = z.object({ url: z.string(), pid: z.number().nullable() })
const known = z.object({ pid: z.number(), haproxy: part, redis: part, instances: z.array(part) })

try {
  await run(parseSettings(schema, process.env))
} catch (error) {
  console.error(error instanceof Error ? error.message : error)
  process.exit(1)
}

async function run(settings: Settings): Promise<void> {
  // Others may have accounts on this machine: what is written here, by any of the programs, is not theirs.
  process.umask(0o077)
  const ports = portsFrom(settings.FLEET_PORT_BASE)
  const folder = resolve(settings.FLEET_DIR)
  for (const program of ['redis-server', 'haproxy'] as const) requireProgram(program)
  await requireUnused(folder)
  for (const port of Object.values(ports).flat()) await requireFree(port)

  // A socket's path may not be long, and the folder's may be. And what Redis needs to start again stays,
  // should somebody remove the folder.
  const own = mkdtempSync(join(tmpdir(), 'fleet-'))
  const socket = join(own, 'haproxy')
  const users = redisUsers(ports, folder, own)
  const places = { ports, socket, redisUrl: users.operatorUrl }

  const running = new Map<string, Supervised>()
  let stopping = false
  const start = async ({ isReady, ...program }: Part): Promise<void> => {
    // What is started from now on nobody would stop.
    if (stopping) return
    const logFile = join(folder, `${program.name}.log`)
    const supervised = supervise({ folder, ...program, logFile, stopMs: STOP_MS }, note)
    running.set(program.name, supervised)
    while (!(await isReady())) {
      if (stopping) return
      if (supervised.pid() === undefined) {
        const said = readFileSync(logFile, 'utf8').trimEnd().split('\n').slice(-3).join('\n')
        throw new Error(`Cannot start fleet: ${program.name} has ended, see ${logFile}:\n${said}`)
      }
      await sleep(20)
    }
    note()
  }
  const note = (): void => writeWhole(join(folder, 'fleet.json'), describe(places, running))
  const stop = async (code: number): Promise<void> => {
    // Ctrl-C may come twice, from the terminal and from npm.
    if (stopping) return
    stopping = true
    // From the outside in: nothing new comes, calls end, then the store goes.
    await running.get('haproxy')?.stop()
    await Promise.all(INSTANCES.map(async (number) => running.get(instanceName(number))?.stop()))
    await running.get('redis')?.stop()
    rmSync(join(folder, 'fleet.json'), { force: true })
    rmSync(own, { recursive: true })
    process.exit(code)
  }
  // The last is a terminal's that is closed.
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) {
    process.on(signal, () => void stop(0))
  }

  try {
    await start(redisPart(ports, join(folder, 'redis'), users))
    const env = {
      REDIS_URL: users.instancesUrl,
      SESSION_SECRET: readSecret(join(folder, 'secret')),
      // HAProxy sets both, whatever a client sends.
      ROUTER_KEY_HEADER: 'holdfast-request',
      CLIENT_ADDRESS_HEADER: 'x-forwarded-for',
      // An instance that has died is back sooner.
      NODE_COMPILE_CACHE: join(folder, 'compile-cache'),
    }
    const args = [...INSTANCE_FLAGS, resolve(settings.SERVER_ENTRY)]
    await Promise.all(INSTANCES.map((number) => start(instancePart(ports, number, { args, env }))))
    await start(haproxyPart(ports, resolve(settings.HAPROXY_CONFIG), socket))
    if (!stopping) console.log(`Holdfast fleet serves http://localhost:${ports.http}/mcp`)
  } catch (error) {
    console.error(error instanceof Error ? error.message : error)
    await stop(1)
  }
}

type Ports = ReturnType<typeof portsFrom>
type Part = Omit<Program, 'folder' | 'logFile' | 'stopMs'> & {
  readonly isReady: () => Promise<boolean>
  /** Another one than the fleet's. */
  readonly folder?: string
}

function portsFrom(base: number) {
  const instances = INSTANCES.map((number) => base + number)
  return { http: base + 80, stats: base + 404, instances, redis: base + 5, peer: base + 6 }
}

function redisPart({ redis: port }: Ports, folder: string, { file, operator }: Users): Part {
  const args = ['--port', String(port), '--dir', folder, '--aclfile', file, ...REDIS_ARGS]
  const isReady = (): Promise<boolean> => servesRedis(port, operator)
  return { name: 'redis', command: 'redis-server', args, env: {}, folder, isReady }
}

function instancePart(
  { instances }: Ports,
  number: number,
  common: Pick<Part, 'args' | 'env'>,
): Part {
  const name = instanceName(number)
  const port = instances[number - 1] ?? 0
  const env = { ...common.env, INSTANCE_ID: name, HOST, PORT: String(port) }
  return { name, command: 'node', args: common.args, env, isReady: () => isTaken(port) }
}

function haproxyPart(ports: Ports, config: string, socket: string): Part {
  const env = {
    HTTP_BIND: `${HOST}:${ports.http}`,
    STATS_BIND: `${HOST}:${ports.stats}`,
    PEER_BIND: `${HOST}:${ports.peer}`,
    ADMIN_SOCKET: socket,
    ...Object.fromEntries(
      ports.instances.map((port, at) => [`SERVER_${at + 1}`, `${HOST}:${port}`]),
    ),
  }
  const isReady = (): Promise<boolean> => isTaken(ports.http)
  return { name: 'haproxy', command: 'haproxy', args: ['-W', '-f', config], env, isReady }
}

function instanceName(number: number): string {
  return `mcp-server-${number}`
}

interface Places {
  readonly ports: Ports
  readonly socket: string
  /** With the operator's password: this file is for the one whose fleet it is. */
  readonly redisUrl: string
}

/** What runs where: the text of `fleet.json`. A pid is null while its program is not running. */
function describe({ ports, socket, redisUrl }: Places, running: Map<string, Supervised>): string {
  const pid = (name: string): number | null => running.get(name)?.pid() ?? null
  const whole = {
    pid: process.pid,
    haproxy: {
      url: `http://localhost:${ports.http}`,
      statsUrl: `http://localhost:${ports.stats}/stats`,
      socket,
      pid: pid('haproxy'),
    },
    redis: { url: redisUrl, pid: pid('redis') },
    instances: ports.instances.map((port, at) => {
      const id = instanceName(at + 1)
      return { id, url: `http://localhost:${port}`, pid: pid(id) }
    }),
  }
  return `${JSON.stringify(whole, null, 2)}\n`
}

type Users = ReturnType<typeof redisUsers>

/** Who may use Redis, as `redis-users.acl` says. The passwords are the same over restarts. */
function redisUsers({ redis: port }: Ports, folder: string, own: string) {
  const file = join(own, 'redis-users.acl')
  const operator = readSecret(join(folder, 'redis-operator'))
  const holdfast = readSecret(join(folder, 'redis-holdfast'))
  const lines = readFileSync(here('redis-users.acl'), 'utf8')
    .split('\n')
    .filter((line) => line.startsWith('user '))
    .map((line) =>
      line.replace('#OPERATOR', hashOf(operator)).replace('#HOLDFAST', hashOf(holdfast)),
    )
  writeFileSync(file, `${lines.join('\n')}\n`)
  const at = `${HOST}:${port}`
  return {
    file,
    operator,
    operatorUrl: `redis://default:${operator}@${at}`,
    instancesUrl: `redis://holdfast:${holdfast}@${at}`,
  }
}

/** As Redis writes it. */
function hashOf(password: string): string {
  return `#${createHash('sha256').update(password).digest('hex')}`
}

/** So that nobody reads half of it. */
function writeWhole(file: string, text: string): void {
  mkdirSync(dirname(file), { recursive: true })
  writeFileSync(`${file}.new`, text)
  renameSync(`${file}.new`, file)
}

/** The same over restarts, so that sessions live on. */
function readSecret(file: string): string {
  mkdirSync(dirname(file), { recursive: true })
  if (!existsSync(file)) writeFileSync(file, randomBytes(32).toString('hex'), { mode: 0o600 })
  const secret = readFileSync(file, 'utf8').trim()
  if (secret === '')
    throw new Error(`Cannot start fleet: ${file} is empty (remove it for a new one)`)
  return secret
}

/** Two fleets in one folder would write the same log of Redis, and each lose what the other has written. */
async function requireUnused(folder: string): Promise<void> {
  const file = join(folder, 'fleet.json')
  if (!existsSync(file)) return
  const { data } = known.safeParse(parseOrNot(readFileSync(file, 'utf8')))
  if (data === undefined) {
    throw new Error(`Cannot start fleet: ${file} is not to be read (remove it if none runs there)`)
  }
  const { pid, haproxy, redis, instances } = data
  const parts = [haproxy, ...instances, redis]
  const taken = await Promise.all(parts.map(({ url }) => isTaken(Number(new URL(url).port))))
  // What was killed with its machine has left the file alone: other processes may have its numbers by now.
  if (!taken.includes(true)) return
  const pids = isAlive(pid) ? [pid] : parts.map((one) => one.pid)
  const living = pids.filter((one) => one !== null && isAlive(one))
  if (living.length === 0) return
  const what = `stop it (kill ${living.join(' ')}), or set FLEET_DIR and FLEET_PORT_BASE for another`
  throw new Error(`Cannot start fleet: one runs in ${folder}: ${what}`)
}

function parseOrNot(json: string): unknown {
  try {
    return JSON.parse(json)
  } catch {
    return undefined
  }
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch {
    return false
  }
}

async function requireFree(port: number): Promise<void> {
  if (!(await isTaken(port))) return
  const what =
    'FLEET_PORT_BASE moves all ports, and a second fleet needs a FLEET_DIR of its own, too'
  throw new Error(`Cannot start fleet: port ${port} is taken (${what})`)
}

/** Its port is open before it has read its log, which it may not be able to. */
async function servesRedis(port: number, password: string): Promise<boolean> {
  const socket = connect(port, HOST)
  socket.end(`AUTH ${password}\r\nPING\r\nQUIT\r\n`)
  try {
    return (await textOf(socket)).includes('+PONG')
  } catch {
    return false
  }
}

function isTaken(port: number): Promise<boolean> {
  const { promise, resolve: answer } = Promise.withResolvers<boolean>()
  const socket = connect(port, HOST)
  socket.once('connect', () => answer(true))
  socket.once('error', () => answer(false))
  return promise.finally(() => socket.destroy())
}

function here(file: string): string {
  return fileURLToPath(new URL(file, import.meta.url))
}
