export interface Backoff {
  readonly baseMs: number
  readonly capMs: number
  readonly random: () => number
}

/** Full jitter: a random wait under a cap that doubles with each attempt, counted from 0. */
export function backoffMs(attempt: number, { baseMs, capMs, random }: Backoff): number {
  return random() * Math.min(capMs, baseMs * 2 ** attempt)
}
