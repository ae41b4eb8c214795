import type { Clock } from './clock.ts'
import type { Exchange } from './exchange.ts'
import type { StreamId } from './ids.ts'

/** The exchanges of one session that are open in this process. */
export class Exchanges {
  readonly #byRun = new Map<number, Exchange>()
  readonly #byKey = new Map<string, Exchange>()
  readonly #clock: Clock
  readonly #quickReplyMs: number
  #watching = false

  constructor(clock: Clock, quickReplyMs: number) {
    this.#clock = clock
    this.#quickReplyMs = quickReplyMs
  }

  get size(): number {
    return this.#byRun.size
  }

  [Symbol.iterator](): Iterator<Exchange> {
    return this.#byRun.values()
  }

  /** The one whose present run is `run`. */
  get(run: number): Exchange | undefined {
    return this.#byRun.get(run)
  }

  withKey(key: string | undefined): Exchange | undefined {
    return key === undefined ? undefined : this.#byKey.get(key)
  }

  withStream(stream: StreamId): Exchange | undefined {
    return Array.from(this).find((exchange) => exchange.stream === stream)
  }

  /** Has `exchange` begin a run; it is known until it is over. */
  add(exchange: Exchange, run: number): void {
    const { key } = exchange.identity ?? {}
    this.#byRun.delete(exchange.run)
    exchange.restart(run)
    this.#byRun.set(run, exchange)
    if (key !== undefined) this.#byKey.set(key, exchange)
  }

  /** Gives calls that take their time a stream. One timer for all: most calls need none. */
  watch(): void {
    if (this.#watching) return
    this.#watching = true
    const before = new Set(this.#byRun.values())
    this.#clock.timer(this.#quickReplyMs, () => {
      this.#watching = false
      const open = [...this.#byRun.values()]
      for (const exchange of open.filter((one) => before.has(one))) {
        exchange.openStream().catch(() => undefined)
      }
      if (open.some((one) => one.stream === undefined)) this.watch()
    })
  }

  forget({ run, identity }: Exchange): void {
    this.#byRun.delete(run)
    if (identity !== undefined) this.#byKey.delete(identity.key)
  }
}
