/**
 * Told of what happens, to count it. Returns at once, never fails, and learns nothing secret. What
 * is on record anyway (`LogEvent`: sessions, restores, takeovers, conflicts, refusals) is counted there.
 */
export type Meter = (measured: Measured) => void

export type Measured =
  /**
   * A client's request has its answer. `tool` is set for calls of tools that the server has; `outcome`
   * is `ok`, `tool_error` (the tool said so in its result), or an error's code.
   */
  | {
      readonly kind: 'call'
      readonly method: string
      readonly tool?: string | undefined
      readonly outcome: string
      readonly tookMs: number
    }
  /** A call was answered from its record. */
  | { readonly kind: 'replayed' }
  /** One atomic write of a holder's was made. */
  | { readonly kind: 'committed' }

// Said often, and always the same.
export const COMMITTED: Measured = { kind: 'committed' }
export const REPLAYED: Measured = { kind: 'replayed' }

export const unmetered: Meter = () => undefined
