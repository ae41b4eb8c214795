import * as z from 'zod'
import type { AuthConfig, StaticToken } from './http/auth.ts'
import { LIMITS, settingOf, type Limits } from './limits.ts'

/** The settings of a server, from environment variables or a Worker's `vars`. */
export type Config = ReturnType<typeof parseConfig>

const list = (fallback: string) =>
  z
    .string()
    .default(fallback)
    .transform((text) => text.split(',').map((part) => part.trim()))
    .transform((parts) => parts.filter((part) => part !== ''))

const YEAR_SECONDS = 366 * 24 * 60 * 60
const TOO_LONG = 'It must be a year or less'

/** How long something takes: a bound for what is a mistake, or meant for ever. */
export const seconds = (fallback: number, least = 0.001) =>
  z.coerce.number().min(least).max(YEAR_SECONDS, TOO_LONG).default(fallback)

const milliseconds = (fallback: number) =>
  z.coerce.number().int().min(1).max(toMs(YEAR_SECONDS), TOO_LONG).default(fallback)

const host = z
  .string()
  .toLowerCase()
  .regex(
    /^(?:(?:\*\.)?[^\s/:*@[\]]+|\[[0-9a-f:.]+\])$/,
    'Each must be a host name without scheme or port',
  )

const origin = z
  .string()
  .toLowerCase()
  .regex(/^[a-z][a-z0-9+.-]*:\/\/[^\s/?#@]+$/, 'Each must be an origin: scheme://host[:port]')

/** Whom tokens are from, and where to ask them: over TLS, or on this machine. */
const secureUrl = z.url({ abort: true }).refine((text) => {
  const { protocol, hostname } = new URL(text)
  return protocol === 'https:' || (protocol === 'http:' && isLoopback(hostname))
}, 'It must begin with https')

const staticToken = z
  .string()
  .regex(
    /^[\w.@-]{1,64}:[0-9a-f]{64}(:.+)?$/,
    'Each must be <name>:<SHA-256 of the token in hex>, with or without :<scopes>',
  )
  .transform((text): StaticToken => {
    const [name = '', hex = '', ...scopes] = text.split(':')
    const hash = Uint8Array.from(hex.match(/../g) ?? [], (byte) => parseInt(byte, 16))
    return { name, hash, scopes: scopes.join(':').split(' ') }
  })

// Signatures that only the issuer can make: with a shared secret whoever can check could sign as well.
const ALGORITHMS = ['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512', 'ES256', 'ES384', 'ES512']

const settings = z
  .object({
    /** Host names this server answers to; a leading `*.` stands for all names below. */
    ALLOWED_HOSTS: list('localhost,127.0.0.1,[::1]').pipe(z.array(host)),
    /** Origins that are not refused, beside those on an allowed host. */
    ALLOWED_ORIGINS: list('').pipe(z.array(origin)),
    /** `1`: callers need not say who they are, also where others than this machine can call. */
    ALLOW_ANONYMOUS: z.enum(['0', '1']).default('0'),
    /** By commas, `<name>:<SHA-256 of the token in hex>`, each with or without `:<scopes>`. */
    AUTH_TOKENS: list('').pipe(z.array(staticToken)),
    /** Whose JSON Web Tokens are good: their `iss`, letter by letter. */
    JWT_ISSUER: secureUrl.optional(),
    /** Their `aud`; unset: PUBLIC_URL. */
    JWT_AUDIENCE: z.string().optional(),
    /** Where the issuer shows its keys. */
    JWT_JWKS_URL: secureUrl.transform((text) => new URL(text)).optional(),
    JWT_ALGORITHMS: list('RS256,ES256,EdDSA').pipe(z.array(z.enum([...ALGORITHMS, 'EdDSA']))),
    /** Only tokens that have it are let in. */
    REQUIRED_SCOPE: z.string().regex(/^\S+$/, 'It must be one word').optional(),
    /** Tokens that have it are those of the people who run the server: /admin/ and /metrics are theirs. */
    ADMIN_SCOPE: z.string().regex(/^\S+$/, 'It must be one word').default('holdfast:admin'),
    /** The address of /mcp as clients use it. */
    PUBLIC_URL: secureUrl.optional(),
    /** `off`: no client gets a session, whatever its revision; tools are told theirs by argument. */
    SESSIONS: z.enum(['on', 'off']).default('on'),
    /** An unused session lives this long. */
    SESSION_TTL_SECONDS: seconds(30 * 60),
    /** A call that has not replied by then is answered with a stream. */
    QUICK_REPLY_MS: milliseconds(250),
    /** How often a quiet stream gets a comment. */
    KEEP_ALIVE_SECONDS: seconds(15),
    /** How long clients wait before they resume a broken stream. */
    STREAM_RETRY_MS: milliseconds(500),
    /** A reply is kept this long for a call that is sent again. */
    REPLY_RETENTION_SECONDS: seconds(5 * 60),
  })
  .refine(
    (env) => env.JWT_ISSUER === undefined || Boolean(env.JWT_JWKS_URL && env.PUBLIC_URL),
    'JWT_ISSUER needs JWT_JWKS_URL and PUBLIC_URL as well',
  )
  .refine(
    (env) => env.JWT_ISSUER !== undefined || !(env.JWT_JWKS_URL || env.JWT_AUDIENCE),
    'JWT_JWKS_URL and JWT_AUDIENCE are for JWT_ISSUER, which is not set',
  )
  .refine(
    (env) => !env.REQUIRED_SCOPE || env.AUTH_TOKENS.length > 0 || env.JWT_ISSUER !== undefined,
    'REQUIRED_SCOPE is for tokens, of which none are set up',
  )

const limitSettings = z.object(
  Object.fromEntries(
    Object.entries(LIMITS).map(([name, fallback]) => [
      settingOf(name),
      z.coerce.number().int().positive().default(fallback),
    ]),
  ),
)

/** Throws with one line per setting that can't be used. */
export function parseConfig(given: object) {
  const env = parseSettings(settings, given)
  const limits = parseLimits(given)
  const ttlMs = toMs(env.SESSION_TTL_SECONDS)
  return {
    allowed: { hosts: env.ALLOWED_HOSTS, origins: env.ALLOWED_ORIGINS },
    allowAnonymous: env.ALLOW_ANONYMOUS === '1',
    auth: authOf(env),
    sessions: env.SESSIONS,
    ttlMs,
    keepAliveMs: toMs(env.KEEP_ALIVE_SECONDS),
    retryMs: env.STREAM_RETRY_MS,
    limits,
    runtime: { ...limits, quickReplyMs: env.QUICK_REPLY_MS, askTimeoutMs: ttlMs },
    record: { ...limits, replyRetentionMs: toMs(env.REPLY_RETENTION_SECONDS) },
  }
}

/** An empty setting is an unset one: compose files can't leave one out. */
export function parseSettings<T>(schema: z.ZodType<T>, given: object): T {
  const env = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== ''))
  const parsed = schema.safeParse(env)
  if (parsed.success) return parsed.data
  const lines = parsed.error.issues.map(({ path, message }) => [...path, message].join(': '))
  throw new Error(`Cannot use settings:\n${lines.join('\n')}`)
}

/** In whole ones: Redis takes no others. */
export function toMs(inSeconds: number): number {
  return Math.round(inSeconds * 1000)
}

/** Host names that mean this machine. */
export function isLoopback(hostname: string): boolean {
  return /^(localhost|127(\.\d+){3}|\[?::1\]?)$/.test(hostname)
}

function parseLimits(given: object): Limits {
  const env = parseSettings(limitSettings, given)
  const read = Object.keys(LIMITS).map((name) => [name, env[settingOf(name)]])
  return Object.fromEntries(read) as Limits
}

/** `undefined` if nothing is set up. */
function authOf(env: z.output<typeof settings>): AuthConfig | undefined {
  const { AUTH_TOKENS: tokens, PUBLIC_URL: publicUrl } = env
  const scopes = { requiredScope: env.REQUIRED_SCOPE, adminScope: env.ADMIN_SCOPE }
  const { JWT_ISSUER: issuer, JWT_JWKS_URL: jwksUrl, JWT_ALGORITHMS: algorithms } = env
  if (issuer === undefined || jwksUrl === undefined || publicUrl === undefined) {
    return tokens.length === 0 ? undefined : { tokens, ...scopes }
  }
  const { JWT_AUDIENCE: audience = publicUrl } = env
  return { tokens, ...scopes, jwt: { issuer, audience, jwksUrl, algorithms, publicUrl } }
}
