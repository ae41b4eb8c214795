import { Server } from 'node:http'
import type { ServerType } from '@hono/node-server'
import { sleep, type Clock } from '../mcp/session/clock.ts'
import type { LocalRouter } from '../mcp/session/local-router.ts'

const IDLE_CHECK_MS = 100

export interface DrainOptions {
  readonly clock: Clock
  readonly router: Pick<LocalRouter, 'idle'>
  /** Lets go of streams that have no end of their own. */
  readonly detach: () => void
  /** Has others go on with the calls that still run here. */
  readonly handOver: () => Promise<void> | undefined
  /** How long routers have to see that this instance is not ready. */
  readonly drainMs: number
  /** After that: how long running calls have to end. */
  readonly stopMs: number
}

export interface Drain {
  readonly isDraining: () => boolean
  /** Resolves when `server` has stopped. */
  begin(server: ServerType): Promise<void>
}

/**
 * Not ready, so that no router sends more; then running calls end, streams are let go, and the
 * server stops. Calls that take too long are handed over.
 */
export function createDrain(options: DrainOptions): Drain {
  const { clock, router, detach, handOver, drainMs, stopMs } = options
  let draining = false

  async function drain(server: ServerType): Promise<void> {
    await sleep(clock, drainMs)
    const closed = new Promise((resolve) => server.close(resolve))
    // A connection that becomes idle later is left open by Node for as long as a client may come back.
    const http = server instanceof Server ? server : undefined
    const closing = setInterval(() => http?.closeIdleConnections(), IDLE_CHECK_MS)
    const ended = router.idle().then(() => {
      detach()
      return closed
    })
    await Promise.race([ended, sleep(clock, stopMs)])
    clearInterval(closing)
    await handOver()
    http?.closeAllConnections()
  }

  return {
    isDraining: () => draining,
    begin(server) {
      draining = true
      return drain(server)
    },
  }
}
