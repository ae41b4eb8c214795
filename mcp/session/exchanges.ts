import type { Clock } from './clock.ts'
import type { Exchange } from './exchange.ts'
import type { StreamId } from './ids.ts'

/** The exchanges of one session that are open in this process. */
export class Exchanges {
  // Few, and most of the time one or none: a Map would be made anew each time it is empty again.
  #open: readonly Exchange[] = []
  readonly #clock: Clock
  readonly #quickReplyMs: number
  #watching = false

  constructor(clock: Clock, quickReplyMs: number) {
    this.#clock = clock
    this.#quickReplyMs = quickReplyMs
  }

  get size(): number {
    return this.#open.length
  }

  [Symbol.iterator](): Iterator<Exchange> {
    return this.#open.values()
  }

  /** The one whose present run is `run`. */
  get(run: number): Exchange | undefined {
    return this.#open.find((exchange) => exchange.run === run)
  }

  withKey(key: string | undefined): Exchange | undefined {
    if (key === undefined) return undefined
    return this.#open.find(({ identity }) => identity?.key === key)
  }

  withStream(stream: StreamId): Exchange | undefined {
    return this.#open.find((exchange) => exchange.stream === stream)
  }

  /** Has `exchange` begin a run; it is known until it is over. */
  add(exchange: Exchange, run: number): void {
    exchange.restart(run)
    if (!this.#open.includes(exchange)) this.#open = [...this.#open, exchange]
  }

  /** Gives calls that take their time a stream. One timer for all: most calls need none. */
  watch(): void {
    if (this.#watching) return
    this.#watching = true
    const before = this.#open
    this.#clock.timer(this.#quickReplyMs, () => {
      this.#watching = false
      const open = this.#open
      for (const exchange of open.filter((one) => before.includes(one))) {
        exchange.openStream().catch(() => undefined)
      }
      if (open.some((one) => one.stream === undefined)) this.watch()
    })
  }

  forget(exchange: Exchange): void {
    this.#open = this.#open.filter((one) => one !== exchange)
  }
}
