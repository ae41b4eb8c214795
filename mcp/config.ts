import * as z from 'zod'

/** The settings of a server, from environment variables or a Worker's `vars`. */
export type Config = z.output<typeof schema>

const list = (fallback: string) =>
  z
    .string()
    .default(fallback)
    .transform((text) => text.split(',').map((part) => part.trim()))
    .transform((parts) => parts.filter((part) => part !== ''))

const positive = (fallback: number) => z.coerce.number().positive().default(fallback)

const schema = z
  .object({
    /** Host names this server answers to; a leading `*.` stands for all names below. */
    ALLOWED_HOSTS: list('localhost,127.0.0.1,[::1]'),
    /** Origins that are not refused, beside those on an allowed host. */
    ALLOWED_ORIGINS: list(''),
    /** `off`: no client gets a session, whatever its revision; tools are told theirs by argument. */
    SESSIONS: z.enum(['on', 'off']).default('on'),
    /** An unused session lives this long. */
    SESSION_TTL_SECONDS: positive(30 * 60),
    /** A call that has not replied by then is answered with a stream. */
    QUICK_REPLY_MS: positive(250),
    /** How often a quiet stream gets a comment. */
    KEEP_ALIVE_SECONDS: positive(15),
    /** How long clients wait before they resume a broken stream. */
    STREAM_RETRY_MS: positive(500),
    /** Requests of one session that may run at once. */
    MAX_CALLS_PER_SESSION: positive(64),
    /** A reply is kept this long for a call that is sent again. */
    REPLY_RETENTION_SECONDS: positive(5 * 60),
    /** Replies kept per session; past it the oldest go first. */
    MAX_REPLIES_PER_SESSION: positive(1024),
  })
  .transform((env) => ({
    allowed: { hosts: env.ALLOWED_HOSTS, origins: env.ALLOWED_ORIGINS },
    sessions: env.SESSIONS,
    ttlMs: env.SESSION_TTL_SECONDS * 1000,
    keepAliveMs: env.KEEP_ALIVE_SECONDS * 1000,
    retryMs: env.STREAM_RETRY_MS,
    runtime: {
      quickReplyMs: env.QUICK_REPLY_MS,
      maxCalls: env.MAX_CALLS_PER_SESSION,
      askTimeoutMs: env.SESSION_TTL_SECONDS * 1000,
    },
    record: {
      replyRetentionMs: env.REPLY_RETENTION_SECONDS * 1000,
      maxReplies: env.MAX_REPLIES_PER_SESSION,
    },
  }))

/** Throws with one line per setting that can't be used. */
export function parseConfig(env: unknown): Config {
  const parsed = schema.safeParse(env)
  if (parsed.success) return parsed.data
  const lines = parsed.error.issues.map(({ path, message }) => `${path.join('.')}: ${message}`)
  throw new Error(`Cannot use settings:\n${lines.join('\n')}`)
}
