import { overloaded } from '../errors.ts'
import type { Clock } from '../session/clock.ts'

const SPAN_MS = 250

/**
 * For requests that have come a moment ago and wait for their answer: the more there are, the busier the
 * process is. Who has waited for longer waits for something else, a tool that takes its time.
 */
export class Room {
  readonly #places: number
  readonly #clock: Clock
  #span = 0
  /** How many have come in this span and the one before, and are not answered. */
  #here = [0, 0]

  constructor(places: number, clock: Clock) {
    this.#places = places
    this.#clock = clock
  }

  /** Throws `overloaded` if all places are taken. */
  look(): number {
    const span = this.#turn()
    const [now = 0, before = 0] = this.#here
    if (now + before >= this.#places) throw overloaded()
    return span
  }

  /** Takes a place, until what it answers is called. Throws `overloaded`, having done nothing. */
  enter(): () => void {
    const span = this.look()
    this.#here[0] = (this.#here[0] ?? 0) + 1
    return () => {
      const age = this.#turn() - span
      const left = this.#here[age]
      if (left !== undefined) this.#here[age] = left - 1
    }
  }

  #turn(): number {
    const span = Math.floor(this.#clock.now() / SPAN_MS)
    const [now = 0] = this.#here
    if (span !== this.#span) this.#here = [0, span === this.#span + 1 ? now : 0]
    this.#span = span
    return span
  }
}
