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
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import * as z from 'zod'
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

try {
  await run(schema.parse(process.env))
} catch (error) {
  console.error(error instanceof Error ? error.message : error)
  process.exit(1)
}

async function run(settings: Settings): Promise<void> {
  // Others may have accounts on this machine: what is written here, by any of the programs, is not theirs.
  process.umask(0o077)
  const ports = portsFrom(settings.FLEET_PORT_BASE)
  for (const program of ['redis-server', 'haproxy'] as const) requireProgram(program)
  for (const port of Object.values(ports).flat()) await requireFree(port)

  const folder = resolve(settings.FLEET_DIR)
  // A socket's path may not be long, and the folder's may be. And what Redis needs to start again stays,
  // should somebody remove the folder.
  const own = mkdtempSync(join(tmpdir(), 'fleet-'))
  const socket = join(own, 'haproxy')
  const users = redisUsers(ports, folder, own)
  const places = { ports, socket, redisUrl: users.operatorUrl }

  const running = new Map<string, Supervised>()
  const start = async ({ port, ...program }: Part): Promise<void> => {
    const logFile = join(folder, `${program.name}.log`)
    const supervised = supervise({ folder, ...program, logFile, stopMs: STOP_MS }, note)
    running.set(program.name, supervised)
    while (!(await isTaken(port))) {
      if (supervised.pid() === undefined) {
        throw new Error(`Cannot start fleet: ${program.name} has ended, see ${logFile}`)
      }
      await sleep(20)
    }
    note()
  }
  const note = (): void => writeWhole(join(folder, 'fleet.json'), describe(places, running))
  let stopping = false
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
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => void stop(0))

  try {
    await start(redisPart(ports, join(folder, 'redis'), users.file))
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
    console.log(`Holdfast fleet serves http://localhost:${ports.http}/mcp`)
  } catch (error) {
    console.error(error instanceof Error ? error.message : error)
    await stop(1)
  }
}

type Ports = ReturnType<typeof portsFrom>
type Part = Omit<Program, 'folder' | 'logFile' | 'stopMs'> & {
  readonly port: number
  /** Another one than the fleet's. */
  readonly folder?: string
}

function portsFrom(base: number) {
  const instances = INSTANCES.map((number) => base + number)
  return { http: base + 80, stats: base + 404, instances, redis: base + 5, peer: base + 6 }
}

function redisPart({ redis: port }: Ports, folder: string, usersFile: string): Part {
  const args = ['--port', String(port), '--dir', folder, '--aclfile', usersFile, ...REDIS_ARGS]
  return { name: 'redis', command: 'redis-server', args, env: {}, folder, port }
}

function instancePart(
  { instances }: Ports,
  number: number,
  common: Pick<Part, 'args' | 'env'>,
): Part {
  const name = instanceName(number)
  const port = instances[number - 1] ?? 0
  const env = { ...common.env, INSTANCE_ID: name, HOST, PORT: String(port) }
  return { name, command: 'node', args: common.args, env, port }
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
  return { name: 'haproxy', command: 'haproxy', args: ['-W', '-f', config], env, port: ports.http }
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
  return readFileSync(file, 'utf8').trim()
}

async function requireFree(port: number): Promise<void> {
  if (!(await isTaken(port))) return
  throw new Error(`Cannot start fleet: port ${port} is taken (FLEET_PORT_BASE moves all ports)`)
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
