/**
 * How much of everything there may be: the one table. Each limit is a setting of the same name in
 * capitals (`maxBodyBytes`: MAX_BODY_BYTES), and a row of the table in docs/security.md.
 */
export const LIMITS = {
  // What one message may be. Larger: 413, deeper: 400.
  maxBodyBytes: 1024 * 1024,
  maxDepth: 64,
  /** Of a JSON-RPC id, in characters. */
  maxIdLength: 256,
  /** Of the request that begins a session: it is kept with it. */
  maxInitializeBytes: 64 * 1024,
  /** Fields in the head of a request; 431 past it. Its size is bounded by what is in front. */
  maxHeaders: 64,

  // What one session may hold and do at once. Past it: 429.
  maxCallsPerSession: 256,
  maxStreamsPerSession: 320,
  /** Resources it is subscribed to, each by a URI of up to 2,048 characters. */
  maxSubscriptions: 64,
  /** Of its state, as JSON; past it the call fails with `state_too_large`. */
  maxStateChars: 1_000_000,
  /** Replies kept; past it the oldest go first. */
  maxRepliesPerSession: 1024,

  // What one caller may open: a principal, or an address where nobody says who they are. Past it: 429.
  /** Sessions that live. */
  maxSessionsPerCaller: 2000,
  /** New sessions; half of them may come at once. */
  sessionsPerMinute: 600,

  // What one process serves at once.
  /** POSTs that have come in the last half second, and wait for their answer's beginning; 503 past it. */
  maxRequests: 256,
  /** Listeners of 2026-07-28; 429 past it. */
  maxListeners: 1024,

  // How long others may take.
  /** Of a stream whose reader is behind; the rest waits in the store. Who reads nothing more is cut. */
  maxBufferedBytes: 1024 * 1024,
} as const

export type Limits = { readonly [name in keyof typeof LIMITS]: number }

/** `maxBodyBytes` as the setting that it is: `MAX_BODY_BYTES`. */
export function settingOf(limit: string): string {
  return limit.replaceAll(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase()
}
