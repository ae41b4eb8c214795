import type { Hono } from 'hono'
import dashboard from '../dashboard/index.html'
import type { Env } from '../durable-objects/env.ts'
import { placesOf } from '../durable-objects/places.ts'
import { countSessions, edgeSecrets } from '../durable-objects/session-index.ts'
import { isLoopback, parseConfig, type Config } from '../mcp/config.ts'
import { createApp } from '../mcp/http/app.ts'
import {
  anonymous,
  anonymousHere,
  bearer,
  operators,
  resourceMetadata,
  type Authenticate,
} from '../mcp/http/auth.ts'
import { StatelessServer } from '../mcp/http/stateless.ts'
import { createLog } from '../mcp/log.ts'
import { systemClock } from '../mcp/session/clock.ts'
import type { Pack } from '../mcp/session/tool.ts'
import { createEdgeOperator, OVERVIEW_MS } from './edge-operator.ts'
import { ObjectRouter } from './object-router.ts'

const INSTANCE = 'worker'

/** The edge's entry: stateless. It finds a session's object and holds the client's streams. */
export function createWorker(pack: Pack): ExportedHandler<Env> {
  let app: Hono | undefined
  return {
    fetch(request, env, ctx) {
      app ??= createEdgeApp(env, pack)
      return app.fetch(request, env, ctx)
    },
  }
}

function createEdgeApp(env: Env, pack: Pack): Hono {
  const config = parseConfig(env)
  const { ttlMs, keepAliveMs, sessions, auth } = config
  // How much an isolate takes on is the platform's to say.
  const limits = { ...config.limits, maxRequests: Infinity }
  const log = createLog((line) => console.log(line), INSTANCE)
  const clock = systemClock
  const places = placesOf(env)
  const router = new ObjectRouter({ env, places, limits, clock, log, random: Math.random })
  const operator = createEdgeOperator({ places, router, clock })
  const stateless = new StatelessServer({
    pack,
    clock,
    log,
    ttlMs,
    keepAliveMs,
    instance: INSTANCE,
    holder: router,
    forward: (id, request, post) => router.forward(id, request, post),
    secrets: edgeSecrets(places),
    status: { startedAt: clock.now(), countSessions: () => countSessions(places) },
    limits,
    isForAll: sessions === 'off',
  })
  return createApp({
    ...config,
    router,
    stateless,
    authenticate: authenticator(config),
    metadata: auth && resourceMetadata(auth),
    operator,
    authenticateOperator: operators(auth, clock),
    dashboard,
    metrics: operator.metrics,
    overviewMs: OVERVIEW_MS,
    limits,
    addressOf,
    instance: INSTANCE,
    clock,
    log,
    // Each session has a store of its own: there is no one thing that could be away.
    reachesStore: () => Promise.resolve(true),
  })
}

/** Cloudflare sets the header, whatever the client has sent. On this machine nobody does. */
function addressOf({ headers, url }: Request): string | undefined {
  const host = new URL(url).hostname.replace(/^\[|\]$/g, '')
  return headers.get('cf-connecting-ip') ?? (isLoopback(host) ? host : undefined)
}

/** A Worker can't see who reaches it: without a word to the contrary, only this machine may. */
function authenticator({ auth, allowAnonymous }: Config): Authenticate {
  if (auth !== undefined) return bearer(auth, systemClock)
  return allowAnonymous ? anonymous : anonymousHere
}
