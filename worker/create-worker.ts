import type { Hono } from 'hono'
import type { Env } from '../durable-objects/env.ts'
import { parseConfig } from '../mcp/config.ts'
import { createApp } from '../mcp/http/app.ts'
import { countSessions, edgeSecrets } from '../durable-objects/session-index.ts'
import { HTTP_LIMITS } from '../mcp/http/limits.ts'
import { anonymous } from '../mcp/http/principal.ts'
import { StatelessServer } from '../mcp/http/stateless.ts'
import { createLog } from '../mcp/log.ts'
import { systemClock } from '../mcp/session/clock.ts'
import type { Pack } from '../mcp/session/tool.ts'
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
  const { allowed, keepAliveMs, retryMs, ttlMs, sessions } = parseConfig(env)
  const log = createLog((line) => console.log(line), INSTANCE)
  const clock = systemClock
  const router = new ObjectRouter({
    sessions: env.SESSION_OBJECTS,
    clock,
    log,
    random: Math.random,
  })
  const stateless = new StatelessServer({
    pack,
    clock,
    log,
    ttlMs,
    keepAliveMs,
    instance: INSTANCE,
    holder: router,
    forward: (id, request, post) => router.forward(id, request, post),
    secrets: edgeSecrets(env.INDEX),
    status: { startedAt: clock.now(), countSessions: () => countSessions(env.INDEX) },
    limits: HTTP_LIMITS,
    isForAll: sessions === 'off',
  })
  return createApp({
    router,
    stateless,
    sessions,
    authenticate: anonymous,
    allowed,
    limits: HTTP_LIMITS,
    instance: INSTANCE,
    clock,
    log,
    keepAliveMs,
    retryMs,
    // Each session has a store of its own: there is no one thing that could be away.
    reachesStore: () => Promise.resolve(true),
  })
}
