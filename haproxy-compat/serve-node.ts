import { ServerResponse, type IncomingMessage } from 'node:http'
import { flushCompileCache } from 'node:module'
import { serve, type ServerType } from '@hono/node-server'
import type { Hono } from 'hono'
import { parseConfig } from '../mcp/config.ts'
import { createApp } from '../mcp/http/app.ts'
import { HTTP_LIMITS } from '../mcp/http/limits.ts'
import { anonymous } from '../mcp/http/principal.ts'
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
  const log = createLog((line) => console.log(line), instance)

  const backing = { ...config, redisUrl: node.redisUrl, clock }
  const { store, count, ping, peers } = await openStore(backing)
  const status = { startedAt: clock.now(), countSessions: count }
  const served = { pack, instance, clock, log, status }
  const router = new LocalRouter({
    ...served,
    store,
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
    limits: HTTP_LIMITS,
    isForAll: config.sessions === 'off',
    relay: peers,
  })
  const app = createApp({
    ...config,
    router,
    stateless,
    authenticate: anonymous,
    limits: HTTP_LIMITS,
    instance,
    clock,
    log,
    routerKeyHeader,
    reachesStore: ping,
    isDraining: drain.isDraining,
  })

  drain.stop(listen(app, { instance, host, port }))
}

interface Place {
  readonly instance: string
  readonly host: string
  readonly port: number
}

function listen({ fetch }: Hono, { instance, host: hostname, port }: Place): ServerType {
  const serverOptions = { ServerResponse: WholeResponse }
  return serve({ fetch, hostname, port, serverOptions }, (address) => {
    console.log(`Holdfast ${instance} serves http://${hostname}:${address.port}/mcp`)
    // Node does so when it exits, which one that is killed does not.
    flushCompileCache()
  })
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
