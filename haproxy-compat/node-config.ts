import { randomBytes } from 'node:crypto'
import * as z from 'zod'
import { parseSettings, seconds, toMs } from '../mcp/config.ts'
import { parseRedisUrl, type RedisPlace } from './redis-place.ts'

export type NodeConfig = z.output<typeof schema>

const secret = z.string().min(16, 'Each must have 16 characters or more')
const headerName = z.string().regex(/^[\w!#$%&'*+.^`|~-]+$/, 'It must be the name of a header')

// What a Node instance is told beside what mcp/config.ts reads, by environment variables.
const schema = z
  .object({
    /** Unset: sessions live in this process and end with it. Its forms are in redis-place.ts. */
    REDIS_URL: z.string().transform(placeFrom).optional(),
    /** Where Sentinels ask for a password. */
    REDIS_SENTINEL_PASSWORD: z.string().optional(),
    /** How many replicas must have what a call has changed before it is answered. */
    REDIS_WAIT_REPLICAS: z.coerce.number().int().min(0).max(16).default(0),
    /** How long they have; after that the call fails, and may be sent again. */
    REDIS_WAIT_MS: z.coerce.number().int().min(1).max(500).default(400),
    INSTANCE_ID: z.string().min(1).max(64).default('node-1'),
    HOST: z.string().default('127.0.0.1'),
    PORT: z.coerce.number().int().min(0).max(65_535).default(8000),
    /** Signs session ids: the same for the whole fleet. Several, by commas: the first one signs. */
    SESSION_SECRET: z.string().transform(partsOf).pipe(z.array(secret)).optional(),
    /** The header in which a router names each request, the same over its replays; it must set it. */
    ROUTER_KEY_HEADER: headerName.optional(),
    /** The header in which a router tells the client's address; it must set it. */
    CLIENT_ADDRESS_HEADER: headerName.optional(),
    /** Sessions held in memory; those unused the longest are restored from the store on demand. */
    MAX_LIVE_SESSIONS: z.coerce.number().int().positive().default(1000),
    /** A session that was unused for this long is not held in memory any more. */
    LIVE_IDLE_SECONDS: seconds(60),
    /** After SIGTERM: how long routers have to see that this instance is not ready. */
    DRAIN_SECONDS: seconds(1, 0),
    /** After that: how long running calls have to end. */
    STOP_SECONDS: seconds(30, 0),
  })
  .transform((env) => ({
    redis: env.REDIS_URL && {
      place: env.REDIS_URL,
      sentinelPassword: env.REDIS_SENTINEL_PASSWORD,
      replicas: env.REDIS_WAIT_REPLICAS,
      replicasWithinMs: env.REDIS_WAIT_MS,
    },
    instance: env.INSTANCE_ID,
    host: env.HOST,
    port: env.PORT,
    secrets: secretsOf(env.SESSION_SECRET),
    routerKeyHeader: env.ROUTER_KEY_HEADER,
    addressHeader: env.CLIENT_ADDRESS_HEADER,
    maxLive: env.MAX_LIVE_SESSIONS,
    liveIdleMs: toMs(env.LIVE_IDLE_SECONDS),
    drainMs: toMs(env.DRAIN_SECONDS),
    stopMs: toMs(env.STOP_SECONDS),
  }))

/** Throws with one line per setting that can't be used. */
export function parseNodeConfig(env: NodeJS.ProcessEnv): NodeConfig {
  return parseSettings(schema, env)
}

function placeFrom(url: string, { issues }: z.core.ParsePayload): RedisPlace {
  try {
    return parseRedisUrl(url)
  } catch (error) {
    issues.push({ code: 'custom', input: '', message: (error as Error).message })
    return z.NEVER
  }
}

function partsOf(text: string): string[] {
  return text.split(',').map((part) => part.trim())
}

/** Without a secret the ids are good for this process alone, as are its sessions. */
function secretsOf(given: readonly string[] = []): [string, ...string[]] {
  const [first = randomBytes(32).toString('hex'), ...others] = given
  return [first, ...others]
}
