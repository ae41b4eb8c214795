import { Server } from 'node:http'
import type { ServerType } from '@hono/node-server'
import { sleep, type Clock } from '../mcp/session/clock.ts'
import type { LocalRouter } from '../mcp/session/local-router.ts'

const IDLE_CHECK_MS = 100

export interface DrainOptions {
  readonly clock: Clock
  readonly router: Pick<LocalRouter, 'idle'>
  /** Lets go of streams; `quiet` are those on which no call that runs here speaks. */
  readonly detach: (which: 'all' | 'quiet') => void
  /** Has others go on with the calls that still run here. */
  readonly handOver: () => Promise<void> | undefined
  /** The same, for good. */
  readonly stop: () => Promise<void> | undefined
  /** How long routers have to see that this instance is not ready. */
  readonly drainMs: number
  /** After that: how long running calls have to end. */
  readonly stopMs: number
}

export interface Drain {
  readonly isDraining: () => boolean
  /** Has it be empty, or serve again. */
  set(isDrained: boolean): void
  /** Resolves when `server` has stopped. */
  begin(server: ServerType): Promise<void>
}

/**
 * Not ready, so that no router sends more; then running calls end, and streams are let go. Calls that
 * take too long are handed over. What comes all the same is served.
 */
export function createDrain(options: DrainOptions): Drain {
  const { clock, router, detach, handOver, stop, drainMs, stopMs } = options
  let stopping = false
  /** Set while an operator wants it empty. */
  let drained: symbol | undefined

  async function end(server: ServerType): Promise<void> {
    await sleep(clock, drainMs)
    const closed = new Promise((resolve) => server.close(resolve))
    // A connection that becomes idle later is left open by Node for as long as a client may come back.
    const http = server instanceof Server ? server : undefined
    const closing = setInterval(() => http?.closeIdleConnections(), IDLE_CHECK_MS)
    const ended = router.idle().then(() => {
      detach('all')
      return closed
    })
    await Promise.race([ended, sleep(clock, stopMs)])
    clearInterval(closing)
    await stop()
    http?.closeAllConnections()
  }

  async function empty(isStill: () => boolean): Promise<void> {
    await sleep(clock, drainMs)
    if (!isStill()) return
    detach('quiet')
    await Promise.race([router.idle(), sleep(clock, stopMs)])
    if (!isStill()) return
    await handOver()
    detach('all')
  }

  return {
    isDraining: () => stopping || drained !== undefined,
    set(isDrained) {
      const wish = isDrained ? Symbol('drained') : undefined
      drained = wish
      if (wish === undefined) return
      // Whatever may fail is no reason for the process to end.
      empty(() => drained === wish && !stopping).catch(() => undefined)
    },
    begin(server) {
      stopping = true
      return end(server)
    },
  }
}
