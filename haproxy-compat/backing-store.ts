import { createClient, type RedisClientType } from '@redis/client'
import type { Config } from '../mcp/config.ts'
import type { Clock } from '../mcp/session/clock.ts'
import { createMemoryStore } from '../mcp/session/memory-store.ts'
import type { SessionStore } from '../mcp/session/store.ts'
import { createLocalCensus, createRedisCensus, type CountingCensus } from './census.ts'
import { createDeadline } from './deadline.ts'
import { RedisPeers } from './redis-peers.ts'
import type { RedisScripts } from './redis-scripts.ts'
import { createRedisStore } from './redis-store.ts'

export interface BackingStore {
  readonly store: SessionStore
  readonly census: CountingCensus
  readonly ping: () => Promise<boolean>
  /** Unset: no other process shares the store. */
  readonly peers?: RedisPeers
  readonly close: () => void
}

export interface BackingStoreOptions extends Pick<Config, 'ttlMs' | 'record' | 'limits'> {
  /** Somebody else's store, which nobody else uses. */
  readonly own: SessionStore | undefined
  /** Unset: sessions are kept in this process. */
  readonly redisUrl: string | undefined
  readonly clock: Clock
}

const TOUCH_MS = 60_000
const STANDALONE_TAIL = 1024
// A command that is not answered by then has failed: its call is refused, and may be sent again.
const COMMAND_MS = 1200
const RECONNECT_MS = 100
// A connection that only listens learns in this way that it is dead.
const PING_MS = 1000

export async function openStore(options: BackingStoreOptions): Promise<BackingStore> {
  const { own, redisUrl, ttlMs, record, limits, clock } = options
  const now = (): number => clock.now()
  const counting = { ttlMs, now, limits, touchMs: TOUCH_MS }
  if (own !== undefined || redisUrl === undefined) {
    const kept = { ...record, ttlMs, now, standaloneTail: STANDALONE_TAIL }
    return {
      store: own ?? createMemoryStore(kept),
      census: createLocalCensus(counting),
      ping: () => Promise.resolve(true),
      close: () => undefined,
    }
  }

  const connection = {
    url: redisUrl,
    socket: { connectTimeout: COMMAND_MS, reconnectStrategy: RECONNECT_MS },
    // Its user may run what is needed, which these are not.
    disableClientInfo: true,
    maintNotifications: 'disabled',
  } as const
  const redis: RedisClientType = createClient({
    ...connection,
    // What can't be sent now fails now: a call must not wait for a store that is away.
    disableOfflineQueue: true,
    // The client's own watches each command with a timer, and only until it is sent.
    commandOptions: { timeout: 0 },
  })
  const subscriber = createClient({ ...connection, pingInterval: PING_MS })
  // Each loss of a connection is an event; the commands that fail of it say so themselves.
  for (const client of [redis, subscriber]) client.on('error', () => undefined)
  await Promise.all([redis.connect(), subscriber.connect()])
  const timed = withDeadline(redis)
  return {
    store: createRedisStore(timed, { ...record, ttlMs, now }),
    census: createRedisCensus(timed, counting),
    peers: new RedisPeers(timed, subscriber, clock),
    ping: () =>
      timed.ping().then(
        () => true,
        () => false,
      ),
    close() {
      for (const client of [redis, subscriber]) client.destroy()
    },
  }
}

/** The commands that are used here, each of which fails if it takes too long. */
function withDeadline(redis: RedisClientType) {
  const within = createDeadline(COMMAND_MS)
  return {
    ping: () => within(redis.ping()),
    evalSha: (...args: Parameters<RedisScripts['evalSha']>) => within(redis.evalSha(...args)),
    eval: (...args: Parameters<RedisScripts['eval']>) => within(redis.eval(...args)),
    zAdd: (...args: Parameters<RedisClientType['zAdd']>) => within(redis.zAdd(...args)),
    sPublish: (channel: string, message: string) => within(redis.sPublish(channel, message)),
    zRem: (key: string, member: string) => within(redis.zRem(key, member)),
    zRemRangeByScore: (key: string, min: string, max: number) =>
      within(redis.zRemRangeByScore(key, min, max)),
    zCard: (key: string) => within(redis.zCard(key)),
    pExpire: (key: string, ms: number) => within(redis.pExpire(key, ms)),
  }
}
