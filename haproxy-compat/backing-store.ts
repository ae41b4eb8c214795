import { createClient } from '@redis/client'
import type { Config } from '../mcp/config.ts'
import type { Clock } from '../mcp/session/clock.ts'
import { createMemoryStore } from '../mcp/session/memory-store.ts'
import type { SessionStore } from '../mcp/session/store.ts'
import { takeCensus } from './census.ts'
import { createRedisStore } from './redis-store.ts'

export interface BackingStore {
  readonly store: SessionStore
  /** Sessions that have state. */
  readonly count: () => Promise<number>
  readonly ping: () => Promise<boolean>
}

export interface BackingStoreOptions extends Pick<Config, 'ttlMs' | 'record'> {
  /** Unset: sessions are kept in this process. */
  readonly redisUrl: string | undefined
  readonly clock: Clock
}

const TOUCH_MS = 60_000
const STANDALONE_TAIL = 1024
// A command that is not answered by then has failed: its call is refused, and may be sent again.
const COMMAND_TIMEOUT_MS = 1500
const RECONNECT_MS = 100

export async function openStore(options: BackingStoreOptions): Promise<BackingStore> {
  const { redisUrl, ttlMs, record, clock } = options
  const now = (): number => clock.now()
  const census = { ttlMs, now, touchMs: TOUCH_MS }
  if (redisUrl === undefined) {
    const store = createMemoryStore({ ...record, ttlMs, now, standaloneTail: STANDALONE_TAIL })
    const set = new Map<string, number>()
    const counted = takeCensus(store, memorySet(set), census)
    return { store: counted.store, count: counted.count, ping: () => Promise.resolve(true) }
  }

  const redis = createClient({
    url: redisUrl,
    // What can't be sent now fails now: a call must not wait for a store that is away.
    disableOfflineQueue: true,
    commandOptions: { timeout: COMMAND_TIMEOUT_MS },
    socket: { reconnectStrategy: RECONNECT_MS },
  })
  // Each loss of the connection is an event; the commands that fail of it say so themselves.
  redis.on('error', () => undefined)
  await redis.connect()
  const counted = takeCensus(createRedisStore(redis, { ...record, ttlMs, now }), redis, census)
  return {
    store: counted.store,
    count: counted.count,
    ping: () =>
      redis.ping().then(
        () => true,
        () => false,
      ),
  }
}

/** A sorted set as Redis has it, in this process. */
function memorySet(set: Map<string, number>): Parameters<typeof takeCensus>[1] {
  return {
    zAdd: async (_key, { score, value }) => set.set(value, score),
    zRem: async (_key, member) => set.delete(member),
    async zRemRangeByScore(_key, _min, max) {
      for (const [member, score] of set) if (score <= max) set.delete(member)
    },
    zCard: async () => set.size,
  }
}
