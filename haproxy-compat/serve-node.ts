import { readFileSync } from 'node:fs'
import { flushCompileCache } from 'node:module'
import type { AddressInfo } from 'node:net'
import type { HttpBindings } from '@hono/node-server'
import { isLoopback, parseConfig, type Config } from '../mcp/config.ts'
import { messageOf } from '../mcp/errors.ts'
import { createApp } from '../mcp/http/app.ts'
import {
  anonymous,
  bearer,
  operators,
  resourceMetadata,
  type Authenticate,
} from '../mcp/http/auth.ts'
import { StatelessServer } from '../mcp/http/stateless.ts'
import { createLog, type Log } from '../mcp/log.ts'
import type { Meter } from '../mcp/meter.ts'
import { createClock } from '../mcp/session/clock.ts'
import { LocalRouter } from '../mcp/session/local-router.ts'
import type { SessionStore } from '../mcp/session/store.ts'
import type { Pack } from '../mcp/session/tool.ts'
import { openStore, type BackingStore } from './backing-store.ts'
import { createBoard, type OnBoard } from './board.ts'
import { createDrain, type Drain } from './drain.ts'
import { listen } from './listen.ts'
import { collectGarbage } from './memory.ts'
import { createMetrics } from './metrics.ts'
import { parseNodeConfig, type NodeConfig } from './node-config.ts'
import { createSessionIds } from './session-ids.ts'
import { createTracing } from './tracing.ts'

export interface NodeServerOptions extends Pack {
  /** Where sessions are kept; unset: in Redis with the setting `REDIS_URL`, else in this process. */
  readonly store?: SessionStore
  /** By the names of environment variables, which they are if unset. */
  readonly settings?: Readonly<Record<string, string | undefined>>
  /** Takes each line of the log. */
  readonly write?: (line: string) => void
}

export interface NodeServer {
  readonly instance: string
  /** The address of `/mcp`. */
  readonly url: string
  /** Drains it: its calls end, its streams are let go, its sessions stay in their store. */
  close(): Promise<void>
}

/** One Node instance as a process of its own: SIGTERM drains it, and a second one ends it at once. */
export async function serveNode(options: NodeServerOptions): Promise<void> {
  let server: NodeServer | undefined
  let draining = false
  // From the start, as a process that is the first of its container heeds no other signals.
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.on(signal, () => {
      if (draining) process.exit(1)
      draining = true
      if (server === undefined) process.exit(0)
      server.close().then(() => process.exit(0), fail)
    })
  }
  // What a tool starts and does not look at is no reason to end the calls of others.
  process.on('unhandledRejection', (error) => console.error('Nobody handled:', error))
  server = await createNodeServer(options).catch(fail)
  console.log(`Holdfast ${server.instance} serves ${server.url}`)
  // Node does so when it exits, which one that is killed does not.
  flushCompileCache()
}

function fail(error: unknown): never {
  console.error(messageOf(error))
  process.exit(1)
}

/** One Node instance, which listens when it is there. */
export async function createNodeServer(options: NodeServerOptions): Promise<NodeServer> {
  const { store: own, settings = process.env, write = console.log, ...pack } = options
  const config = parseConfig(settings)
  const node = parseNodeConfig(settings)
  const { instance, host, port, redis } = node
  const log = createLog(write, instance)
  const authenticate = authenticator(config, host)
  const backing = await openStore({ ...config, own, redis, clock, log })
  const tracing = createTracing(instance)
  const parts = { config, node, log, authenticate, backing }
  const { app, drain, board, stopping } = createInstance(tracing.pack(pack), parts)
  const leave = async (): Promise<void> => {
    await board.stop()
    backing.close()
  }
  // It may be that it is to take no calls.
  await board.start()
  const bound = { host, port, ...config.limits }
  const server = await listen(tracing.fetch(app.fetch), bound).catch(async (error: unknown) => {
    await backing.peers?.stop()
    await leave()
    throw error
  })
  log({ event: 'started', auth: config.auth === undefined ? 'none' : 'bearer' })
  return {
    instance,
    url: `http://${host}:${(server.address() as AddressInfo).port}/mcp`,
    async close() {
      stopping.abort()
      await drain.begin(server)
      await leave()
    },
  }
}

interface Parts {
  readonly config: Config
  readonly node: NodeConfig
  readonly log: Log
  readonly authenticate: Authenticate
  readonly backing: BackingStore
}

function createInstance(pack: Pack, parts: Parts) {
  const { config, node, authenticate, backing } = parts
  const { instance, secrets, routerKeyHeader } = node
  const { census, ping, peers } = backing
  const { board, metrics, log, meter } = createLookout(pack, parts, {
    activity: () => router.activity,
    isDraining: () => drain.isDraining(),
    end: (id) => router.end(id),
    drained: (isDrained) => drain.set(isDrained),
  })
  const status = { startedAt: clock.now(), countSessions: () => census.count() }
  const served = { pack, instance, clock, log, meter, status }
  const router = new LocalRouter({
    ...served,
    ...node,
    store: backing.store,
    census,
    onlooker: board.onlooker,
    ids: createSessionIds(secrets),
    limits: config.runtime,
    onQuiet: collectGarbage,
    peers: backing.news.peers,
  })
  const stopping = new AbortController()
  const stateless = new StatelessServer({
    ...config,
    ...served,
    holder: router,
    secrets: () => Promise.resolve(secrets),
    isForAll: config.sessions === 'off',
    relay: peers,
    tellsHeld: routerKeyHeader !== undefined,
  })
  const drain = drainOf(node, router, stateless, peers)
  peers?.start(
    (call) => router.takeOver(call),
    () => !drain.isDraining(),
  )
  const app = createApp({
    ...config,
    router,
    stateless,
    authenticate,
    metadata: config.auth && resourceMetadata(config.auth),
    operator: board,
    authenticateOperator: operators(config.auth, clock),
    dashboard: DASHBOARD,
    metrics,
    stopping: stopping.signal,
    instance,
    clock,
    log,
    routerKeyHeader,
    addressOf: addressFrom(node.addressHeader),
    reachesStore: ping,
    isDraining: drain.isDraining,
  })
  return { app, drain, board, stopping }
}

function drainOf(
  node: NodeConfig,
  router: LocalRouter,
  stateless: StatelessServer,
  peers: BackingStore['peers'],
): Drain {
  return createDrain({
    ...node,
    clock,
    router,
    detach(which) {
      router.detach(which)
      stateless.dismiss()
    },
    handOver: () => peers?.handOver(),
    stop: () => peers?.stop(),
  })
}

/** What operators see, and what is told to it. */
function createLookout({ version = '0' }: Pack, parts: Parts, own: OnBoard) {
  const { config, node, backing } = parts
  const { instance } = node
  const board = createBoard({
    instance,
    topology: backing.peers === undefined ? 'node' : 'fleet',
    clock,
    ttlMs: config.ttlMs,
    store: backing.board,
    listen: backing.news.listen,
    countSessions: () => backing.census.count(),
    own,
  })
  const metrics = createMetrics({ instance, version, ...own })
  const log = metrics.counted(board.counted(parts.log))
  const meter: Meter = (measured) => {
    board.meter(measured)
    metrics.meter(measured)
  }
  return { board, metrics: metrics.text, log, meter }
}

const DASHBOARD = readFileSync(new URL('../dashboard/index.html', import.meta.url), 'utf8')

/** What keeps the process alive is that it listens, and no timer. */
const clock = createClock((fire, ms) => setTimeout(fire, ms).unref())

/** Where others than this machine can call, they say who they are, or somebody says they need not. */
function authenticator({ auth, allowAnonymous }: Config, host: string): Authenticate {
  if (auth !== undefined) return bearer(auth, clock)
  if (allowAnonymous || isLoopback(host)) return anonymous
  const why = 'set AUTH_TOKENS or JWT_ISSUER, or ALLOW_ANONYMOUS=1 to let everybody in'
  throw new Error(`Cannot listen on ${host}: nothing is set up to authenticate callers (${why})`)
}

function addressFrom(header: string | undefined) {
  return ({ headers }: Request, env: unknown): string | undefined => {
    const told = header === undefined ? undefined : headers.get(header)
    return told ?? (env as HttpBindings).incoming.socket.remoteAddress
  }
}
