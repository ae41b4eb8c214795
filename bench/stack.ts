/** One subject as `npm run fleet` would run it, and one instance more that HAProxy knows not of. */
import { spawn, type ChildProcess } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
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
  readonly name: string
  /** What an instance is, from the repository's root. */
  readonly program: string
  readonly redisArgs: readonly string[]
}

const HOST = '127.0.0.1'
const STARTS_WITHIN_MS = 15_000
const scratch = mkdtempSync(join(tmpdir(), 'bench-fleet-'))
const started: Started[] = []
let stopping = false

export async function startStack({ name, program, redisArgs }: StackOptions): Promise<Stack> {
  const folder = join(scratch, name)
  mkdirSync(folder)
  const port = await freePort()
  const redis = new Started('redis-server', [
    '--bind',
    HOST,
    '--port',
    String(port),
    '--dir',
    folder,
    ...redisArgs,
  ])
  await redis.listensOn(port)

  const common = {
    HOST,
    REDIS_URL: `redis://${HOST}:${port}`,
    SESSION_SECRET: randomBytes(32).toString('hex'),
    ROUTER_KEY_HEADER: 'holdfast-request',
    NODE_COMPILE_CACHE: join(scratch, 'compile-cache'),
  }
  const ports: number[] = []
  const instances: Started[] = []
  while (instances.length < 4) {
    const PORT = await freePort()
    const env = { ...common, INSTANCE_ID: `mcp-server-${ports.push(PORT)}`, PORT: String(PORT) }
    const instance = new Started(process.execPath, [fromRoot(program)], env)
    instances.push(instance)
    await instance.listensOn(PORT)
  }
  const http = await freePort()
  const haproxy = new Started(
    'haproxy',
    ['-W', '-f', fromRoot('haproxy-compat/haproxy.cfg')],
    await haproxyEnv(http, ports, join(folder, 'socket')),
  )
  await haproxy.listensOn(http)
  return {
    fleet: { url: mcpUrl(http), instances: instances.slice(0, 3), haproxy, redis },
    alone: { url: mcpUrl(ports[3]), instances: instances.slice(3), haproxy: undefined, redis },
  }
}

/** Ends all that was started here, and leaves nothing on disk. */
export async function stopStacks(): Promise<void> {
  stopping = true
  // From the outside in.
  for (const program of started.toReversed()) await program.stop()
  rmSync(scratch, { recursive: true, force: true })
}

/** A program and those that it has started itself: HAProxy is a master with a worker. */
export class Started {
  readonly #command: string
  readonly #child: ChildProcess
  readonly #logFile: string

  constructor(command: string, args: readonly string[], env: Record<string, string> = {}) {
    if (stopping) throw new Error(`Cannot start ${command}: the bench is being stopped`)
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

  async listensOn(port: number): Promise<void> {
    const deadline = performance.now() + STARTS_WITHIN_MS
    while (!(await isTaken(port))) {
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

async function haproxyEnv(http: number, ports: readonly number[], socket: string) {
  return {
    HTTP_BIND: `${HOST}:${http}`,
    STATS_BIND: `${HOST}:${await freePort()}`,
    PEER_BIND: `${HOST}:${await freePort()}`,
    ADMIN_SOCKET: socket,
    SERVER_1: `${HOST}:${ports[0]}`,
    SERVER_2: `${HOST}:${ports[1]}`,
    SERVER_3: `${HOST}:${ports[2]}`,
  }
}

function residentMb(pid: number): number {
  const [, kilobytes] = /VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? []
  return Number(kilobytes) / 1000
}

function mcpUrl(port: number | undefined): URL {
  return new URL(`http://${HOST}:${port}/mcp`)
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
