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
  /** Names the server to stop when all is done. */
  stop(server: ServerType): void
}

/**
 * On SIGTERM: not ready, so that no router sends more; then running calls end, streams are let
 * go, and the process exits. A second SIGTERM, or calls that take too long, end it at once.
 */
export function drainOnSigterm(options: DrainOptions): Drain {
  const { clock, router, detach, handOver, drainMs, stopMs } = options
  let draining = false
  let server: ServerType | undefined

  async function drain(): Promise<void> {
    await sleep(clock, drainMs)
    const closed = new Promise((resolve) => server?.close(resolve))
    // A connection that becomes idle later is left open by Node for as long as a client may come back.
    const http = server instanceof Server ? server : undefined
    setInterval(() => http?.closeIdleConnections(), IDLE_CHECK_MS)
    const ended = router.idle().then(() => {
      detach()
      return closed
    })
    await Promise.race([ended, sleep(clock, stopMs)])
    await handOver()
    process.exit(0)
  }

  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.on(signal, () => {
      if (draining) process.exit(1)
      draining = true
      void drain()
    })
  }
  return { isDraining: () => draining, stop: (named) => void (server = named) }
}
