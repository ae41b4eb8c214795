import type { Clock } from './clock.ts'
import type { SessionId } from './ids.ts'
import type { SessionRuntime } from './runtime.ts'

export interface HeldOptions {
  readonly clock: Clock
  /** Sessions held in memory; the idle ones that were unused the longest are let go past it. */
  readonly maxLive: number
  /** One that was unused for this long is let go as well. */
  readonly liveIdleMs: number
  /** Called when nothing was held for `QUIET_SWEEPS` times `liveIdleMs`: a time to tidy up. */
  readonly onQuiet?: () => void
}

export interface Held {
  readonly runtime: Promise<SessionRuntime | undefined>
  /** Set once that is known. */
  live?: SessionRuntime | undefined
  /** Milliseconds since the epoch. */
  usedAt: number
  /** Requests that are being handed to it. */
  users: number
}

/** Tidying up may cost whoever comes next: a rest between two calls is no time for it. */
export const QUIET_SWEEPS = 5

/** The sessions that one process has in memory, for as long as they are used. */
export class HeldSessions {
  readonly #options: HeldOptions
  /** In the order of their last use. */
  readonly #held = new Map<SessionId, Held>()
  #sweeping = false

  constructor(options: HeldOptions) {
    this.#options = options
  }

  get size(): number {
    return this.#held.size
  }

  [Symbol.iterator](): Iterator<readonly [SessionId, Held]> {
    return this.#held.entries()
  }

  get(id: SessionId): Held | undefined {
    return this.#held.get(id)
  }

  /** Makes it the one used last: the one that is held, or else what `start` begins. */
  use(id: SessionId, start: () => Held['runtime']): Held {
    const held = this.#held.get(id) ?? { runtime: start(), usedAt: 0, users: 0 }
    held.usedAt = this.#options.clock.now()
    this.#held.delete(id)
    this.#held.set(id, held)
    this.sweepLater()
    return held
  }

  delete(id: SessionId): void {
    this.#held.delete(id)
  }

  /** One timer for all, and none when all is quiet. `quiet`: how often in a row nothing was held. */
  sweepLater(quiet = 0): void {
    if (this.#sweeping) return
    const { clock, liveIdleMs, onQuiet } = this.#options
    this.#sweeping = true
    clock.timer(liveIdleMs, () => {
      void this.letGo().finally(() => {
        this.#sweeping = false
        if (this.size > 0) this.sweepLater()
        else if (quiet < QUIET_SWEEPS) this.sweepLater(quiet + 1)
        else onQuiet?.()
      })
    })
  }

  /** Lets go of idle sessions, the longest unused first; one that is busy is kept, whatever its age. */
  async letGo(): Promise<void> {
    const { clock, maxLive, liveIdleMs } = this.#options
    for (const [id, held] of this.#held) {
      const old = clock.now() - held.usedAt >= liveIdleMs
      if (!old && this.#held.size <= maxLive) return
      const runtime = await held.runtime.catch(() => undefined)
      if (held.users > 0 || runtime?.isIdle === false || this.#held.get(id) !== held) continue
      this.#held.delete(id)
      await runtime?.close()
    }
  }
}
