/** One subject as `npm run fleet` would run it, and one instance more that HAProxy knows not of. */
import { spawn, type ChildProcess } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { INSTANCE_FLAGS } from '../haproxy-compat/programs.ts'
import { freePort } from '../test/support/ports.ts'
import { cpuSeconds } from './figures.ts'

export interface Stack {
  /** HAProxy before three instances. */
  readonly fleet: Entry
  /** A fourth instance by itself; it shares their Redis. */
  readonly alone: Entry
}

export interface Entry {
  readonly url: URL
  readonly instances: readonly Started[]
  readonly haproxy: Started | undefined
  readonly redis: Started
}

export interface StackOptions {
  /** What an instance is, from the repository's root. */
  readonly program: string
  readonly redisArgs: readonly string[]
}

export interface InstanceOptions {
  readonly program: string
  readonly redis: Started
  readonly env?: Record<string, string>
}

/** Ours, from the repository's root. */
export const INSTANCE = 'haproxy-compat/server.ts'

const HOST = '127.0.0.1'
const STARTS_WITHIN_MS = 15_000
const SECRET = randomBytes(32).toString('hex')
const scratch = mkdtempSync(join(tmpdir(), 'bench-'))
const started: Started[] = []
let stopping = false

process.once('exit', () => rmSync(scratch, { recursive: true, force: true }))
for (const signal of ['SIGTERM', 'SIGINT'] as const) {
  process.once(signal, () => void stopStacks().then(() => process.exit(1)))
}

export async function startStack({ program, redisArgs }: StackOptions): Promise<Stack> {
  const redis = await startRedis(redisArgs)
  const start = (number: number): Promise<Started> => startInstance(number, { program, redis })
  const instances = [await start(1), await start(2), await start(3)]
  const alone = await start(4)
  const port = await freePort()
  const haproxy = new Started(
    'haproxy',
    ['-W', '-f', fromRoot('haproxy-compat/haproxy.cfg')],
    port,
    await haproxyEnv(port, instances),
  )
  await haproxy.listens()
  return {
    fleet: { url: mcpUrl(haproxy), instances, haproxy, redis },
    alone: { url: mcpUrl(alone), instances: [alone], haproxy: undefined, redis },
  }
}

export async function startRedis(args: readonly string[]): Promise<Started> {
  const port = await freePort()
  const own = ['--bind', HOST, '--port', String(port), '--dir', newFolder()]
  const redis = new Started('redis-server', [...own, ...args], port)
  await redis.listens()
  return redis
}

export async function startInstance(
  number: number,
  { program, redis, env }: InstanceOptions,
): Promise<Started> {
  const port = await freePort()
  // Each as its own way of starting it has it: for the others, as Node comes.
  const flags = program === INSTANCE ? INSTANCE_FLAGS : []
  const instance = new Started(process.execPath, [...flags, fromRoot(program)], port, {
    HOST,
    PORT: String(port),
    INSTANCE_ID: `mcp-server-${number}`,
    REDIS_URL: redisUrl(redis),
    SESSION_SECRET: SECRET,
    ROUTER_KEY_HEADER: 'holdfast-request',
    NODE_COMPILE_CACHE: join(scratch, 'compile-cache'),
    ...env,
  })
  await instance.listens()
  return instance
}

export function mcpUrl({ port }: Started): URL {
  return new URL(`http://${HOST}:${port}/mcp`)
}

export function redisUrl({ port }: Started): string {
  return `redis://${HOST}:${port}`
}

/** Ends all that was started here. */
export async function stopStacks(): Promise<void> {
  stopping = true
  // From the outside in.
  for (const program of started.toReversed()) await program.stop()
}

/** A program and those that it has started itself: HAProxy is a master with a worker. */
export class Started {
  readonly port: number
  readonly #command: string
  readonly #child: ChildProcess
  readonly #logFile: string

  constructor(
    command: string,
    args: readonly string[],
    port: number,
    env: Record<string, string> = {},
  ) {
    if (stopping) throw new Error(`Cannot start ${command}: the bench is being stopped`)
    this.port = port
    this.#command = command
    this.#logFile = join(scratch, `${started.push(this)}.log`)
    const log = openSync(this.#logFile, 'a')
    const stdio = ['ignore', log, log] as const
    // Ctrl-C is for the bench, which stops the others in order.
    this.#child = spawn(command, args, {
      env: { ...process.env, ...env },
      stdio: [...stdio],
      detached: true,
    })
    this.#child.once('error', () => undefined)
  }

  cpuSeconds(): number {
    return this.#pids().reduce((sum, pid) => sum + cpuSeconds(pid), 0)
  }

  residentMb(): number {
    return this.#pids().reduce((sum, pid) => sum + residentMb(pid), 0)
  }

  async listens(): Promise<void> {
    const deadline = performance.now() + STARTS_WITHIN_MS
    while (!(await isTaken(this.port))) {
      if (!this.#runs || performance.now() > deadline) {
        throw new Error(`Cannot start ${this.#command}: ${readFileSync(this.#logFile, 'utf8')}`)
      }
      await sleep(20)
    }
  }

  async stop(): Promise<void> {
    if (!this.#runs) return
    const exited = once(this.#child, 'exit')
    // HAProxy's master ends its worker; the others have nothing to put in order.
    this.#child.kill(this.#command === 'haproxy' ? 'SIGTERM' : 'SIGKILL')
    await exited
  }

  get #runs(): boolean {
    const { pid, exitCode, signalCode } = this.#child
    return pid !== undefined && exitCode === null && signalCode === null
  }

  #pids(): number[] {
    const { pid } = this.#child
    if (pid === undefined) return []
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8')
    return [pid, ...children.trim().split(' ').map(Number)].filter((known) => known > 0)
  }
}

async function haproxyEnv(port: number, [one, two, three]: readonly Started[]) {
  return {
    HTTP_BIND: `${HOST}:${port}`,
    STATS_BIND: `${HOST}:${await freePort()}`,
    PEER_BIND: `${HOST}:${await freePort()}`,
    ADMIN_SOCKET: join(newFolder(), 'socket'),
    SERVER_1: `${HOST}:${one?.port}`,
    SERVER_2: `${HOST}:${two?.port}`,
    SERVER_3: `${HOST}:${three?.port}`,
  }
}

function residentMb(pid: number): number {
  const [, kilobytes] = /VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? []
  return Number(kilobytes) / 1000
}

function newFolder(): string {
  return mkdtempSync(join(scratch, 'folder-'))
}

function isTaken(port: number): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>()
  const socket = connect(port, HOST)
  socket.once('connect', () => resolve(true))
  socket.once('error', () => resolve(false))
  return promise.finally(() => socket.destroy())
}

function fromRoot(file: string): string {
  return fileURLToPath(new URL(`../${file}`, import.meta.url))
}
