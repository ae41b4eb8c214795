import { randomText } from '../mcp/session/ids.ts'
import type { Attempt } from '../mcp/session/store.ts'

/**
 * Names the POSTs of this isolate. A key per POST lets an object tell a repeated one; the lowest
 * number that is still open lets it forget the others.
 */
export class Attempts {
  readonly #open = new Set<number>()
  #sender: string | undefined
  #last = 0

  /** `signal` is aborted when the client hangs up, and with it all that would run here. */
  async run<T>(act: (attempt: Attempt) => Promise<T>, signal?: AbortSignal): Promise<T> {
    // Workers have no source of chance before their first request.
    this.#sender ??= randomText(9)
    const number = ++this.#last
    this.#open.add(number)
    signal?.addEventListener('abort', () => this.#open.delete(number), { once: true })
    const [settled = number] = this.#open
    try {
      return await act({ sender: this.#sender, number, settled })
    } finally {
      this.#open.delete(number)
    }
  }
}
