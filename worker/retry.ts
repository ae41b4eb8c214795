import { ServerError } from '../mcp/errors.ts'
import { sleep, type Clock } from '../mcp/session/clock.ts'

export interface RetryOptions {
  readonly clock: Clock
  readonly random: () => number
  readonly retried: (attempt: number, reason: string) => void
}

const MAX_ATTEMPTS = 6
const BASE_MS = 50
const CAP_MS = 1000

/**
 * Calls an object, and again if it was reset on the way: what is called must bear to be repeated.
 * `act` must get itself a new stub each time: a stub is broken for good after an error.
 */
export async function retryObject<T>(act: () => Promise<T>, options: RetryOptions): Promise<T> {
  for (let attempt = 0; ; attempt++) {
    try {
      return await act()
    } catch (error) {
      const retryable = isRetryable(error)
      if (!retryable && !isOverloaded(error)) throw error
      if (!retryable || attempt + 1 === MAX_ATTEMPTS) {
        throw new ServerError('store_unavailable', 'Cannot reach session: its object is away')
      }
      options.retried(attempt, String(error))
      await sleep(options.clock, backoffMs(attempt, options.random))
    }
  }
}

/** Full jitter: a random wait under a cap that doubles with each attempt, counted from 0. */
export function backoffMs(attempt: number, random: () => number): number {
  return random() * Math.min(CAP_MS, BASE_MS * 2 ** attempt)
}

/** Reset objects are worth another try, those that have too much to do are not. */
function isRetryable(error: unknown): boolean {
  if (!(error instanceof Error) || isOverloaded(error)) return false
  const { retryable, durableObjectReset }: PlatformError = error
  return retryable === true || durableObjectReset === true
}

function isOverloaded(error: unknown): boolean {
  return error instanceof Error && (error as PlatformError).overloaded === true
}

interface PlatformError extends Error {
  readonly retryable?: boolean
  readonly overloaded?: boolean
  readonly durableObjectReset?: boolean
}
