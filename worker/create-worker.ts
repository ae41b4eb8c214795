import type { Hono } from 'hono'
import type { Env } from '../durable-objects/env.ts'
import { parseConfig } from '../mcp/config.ts'
import { createApp } from '../mcp/http/app.ts'
import { HTTP_LIMITS } from '../mcp/http/limits.ts'
import { anonymous } from '../mcp/http/principal.ts'
import { createLog } from '../mcp/log.ts'
import { systemClock } from '../mcp/session/clock.ts'
import { ObjectRouter } from './object-router.ts'

const INSTANCE = 'worker'

/** The edge's entry: stateless. It finds a session's object and holds the client's streams. */
export function createWorker(): ExportedHandler<Env> {
  let app: Hono | undefined
  return {
    fetch(request, env, ctx) {
      app ??= createEdgeApp(env)
      return app.fetch(request, env, ctx)
    },
  }
}

function createEdgeApp(env: Env): Hono {
  const { allowed, keepAliveMs, retryMs } = parseConfig(env)
  const log = createLog((line) => console.log(line), INSTANCE)
  const clock = systemClock
  return createApp({
    router: new ObjectRouter({ sessions: env.SESSIONS, clock, log, random: Math.random }),
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
