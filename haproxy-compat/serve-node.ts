import { ServerResponse, type IncomingMessage } from 'node:http'
import { flushCompileCache } from 'node:module'
import { serve, type HttpBindings } from '@hono/node-server'
import type { Hono } from 'hono'
import { isLoopback, parseConfig, type Config } from '../mcp/config.ts'
import { ServerError } from '../mcp/errors.ts'
import { createApp } from '../mcp/http/app.ts'
import { anonymous, bearer, resourceMetadata, type Authenticate } from '../mcp/http/auth.ts'
import { errorResponse } from '../mcp/http/responses.ts'
import { StatelessServer } from '../mcp/http/stateless.ts'
import { createLog } from '../mcp/log.ts'
import { systemClock as clock } from '../mcp/session/clock.ts'
import { LocalRouter } from '../mcp/session/local-router.ts'
import type { Pack } from '../mcp/session/tool.ts'
import { openStore } from './backing-store.ts'
import { drainOnSigterm } from './drain.ts'
import { collectGarbage } from './memory.ts'
import { parseNodeConfig } from './node-config.ts'
import { createSessionIds } from './session-ids.ts'

/** One Node instance that serves `pack`, set up by its environment variables. */
export async function serveNode(pack: Pack): Promise<void> {
  const config = parseConfig(process.env)
  const { instance, host, port, secrets, maxLive, liveIdleMs, routerKeyHeader, ...node } =
    parseNodeConfig(process.env)
  const authenticate = authenticator(config, host)
  const log = createLog((line) => console.log(line), instance)

  const backing = { ...config, redisUrl: node.redisUrl, clock }
  const { store, census, ping, peers } = await openStore(backing)
  const status = { startedAt: clock.now(), countSessions: () => census.count() }
  const served = { pack, instance, clock, log, status }
  const router = new LocalRouter({
    ...served,
    store,
    census,
    ids: createSessionIds(secrets),
    limits: config.runtime,
    maxLive,
    liveIdleMs,
    onQuiet: collectGarbage,
    ...(peers && { peers }),
  })
  const detach = (): void => {
    router.detachAll()
    stateless.dismiss()
  }
  const drain = drainOnSigterm({ ...node, clock, router, detach, handOver: () => peers?.stop() })
  peers?.start(
    (call) => router.takeOver(call),
    () => !drain.isDraining(),
  )
  const stateless = new StatelessServer({
    ...config,
    ...served,
    holder: router,
    secrets: () => Promise.resolve(secrets),
    isForAll: config.sessions === 'off',
    relay: peers,
    tellsHeld: routerKeyHeader !== undefined,
  })
  const app = createApp({
    ...config,
    router,
    stateless,
    authenticate,
    metadata: config.auth && resourceMetadata(config.auth),
    instance,
    clock,
    log,
    routerKeyHeader,
    addressOf: addressFrom(node.addressHeader),
    reachesStore: ping,
    isDraining: drain.isDraining,
  })

  drain.stop(listen(app, { instance, host, port, ...config.limits }))
  log({ event: 'started', auth: config.auth === undefined ? 'none' : 'bearer' })
}

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

interface Listening {
  readonly instance: string
  readonly host: string
  readonly port: number
  readonly maxHeaders: number
}

const MAX_HEAD_BYTES = 16 * 1024
// A client that takes longer to say what it wants is gone, or means harm.
const HEAD_MS = 10_000
const REQUEST_MS = 30_000
/** Of no sign from either side: as HAProxy's. A stream that is read has its comments. */
const SILENT_MS = 300_000

type FetchCallback = Parameters<typeof serve>[0]['fetch']

function listen({ fetch }: Hono, { instance, host: hostname, port, maxHeaders }: Listening) {
  const serverOptions = {
    ServerResponse: WholeResponse,
    maxHeaderSize: MAX_HEAD_BYTES,
    headersTimeout: HEAD_MS,
    requestTimeout: REQUEST_MS,
    connectionsCheckingInterval: 1000,
  }
  const bounded: FetchCallback = (request, env) => {
    // Node has a limit of its own, but leaves out what is over it.
    const isOver = env.incoming.rawHeaders.length > 2 * maxHeaders
    return isOver ? tooManyHeaders() : fetch(request, env)
  }
  const server = serve({ fetch: bounded, hostname, port, serverOptions }, (address) => {
    console.log(`Holdfast ${instance} serves http://${hostname}:${address.port}/mcp`)
    // Node does so when it exits, which one that is killed does not.
    flushCompileCache()
  })
  return server.setTimeout(SILENT_MS)
}

function tooManyHeaders(): Response {
  const why = 'its head has too many fields'
  return errorResponse(new ServerError('too_many_headers', `Cannot serve request: ${why}`))
}

/**
 * A stream's headers wait for its first event, which is there at once. Were they sent before it, a
 * client whose instance dies between the two would have no event to resume behind.
 */
class WholeResponse<T extends IncomingMessage> extends ServerResponse<T> {
  override flushHeaders(): void {
    // They go with what is written first.
  }
}
