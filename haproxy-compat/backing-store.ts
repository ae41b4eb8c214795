import type { Config } from '../mcp/config.ts'
import type { Log } from '../mcp/log.ts'
import type { Clock } from '../mcp/session/clock.ts'
import { createMemoryStore } from '../mcp/session/memory-store.ts'
import type { SessionStore } from '../mcp/session/store.ts'
import type { BoardStore } from './board-store.ts'
import { createLocalCensus, createRedisCensus, type CountingCensus } from './census.ts'
import { createDeadline } from './deadline.ts'
import { createMemoryBoard } from './memory-board.ts'
import { overhear, type Overheard } from './overhear.ts'
import { createRedisBoard } from './redis-board.ts'
import {
  COMMAND_MS,
  connectRedis,
  type RedisCommands,
  type RedisSettings,
} from './redis-connection.ts'
import { RedisPeers } from './redis-peers.ts'
import { createRedisStore } from './redis-store.ts'
import { onReplicas, type ReplicaOptions } from './replicas.ts'

export interface BackingStore {
  readonly store: SessionStore
  readonly census: CountingCensus
  readonly ping: () => Promise<boolean>
  /** Unset: no other process shares the store. */
  readonly peers?: RedisPeers
  /** What operators see of all processes that share the store. */
  readonly board: BoardStore
  readonly news: Pick<Overheard, 'peers' | 'listen'>
  readonly close: () => void
}

export interface BackingStoreOptions extends Pick<Config, 'ttlMs' | 'record' | 'limits'> {
  /** Somebody else's store, which nobody else uses. */
  readonly own: SessionStore | undefined
  /** Unset: sessions are kept in this process. */
  readonly redis: RedisOptions | undefined
  readonly clock: Clock
  readonly log: Log
}

interface RedisOptions extends RedisSettings, Pick<ReplicaOptions, 'replicas'> {
  readonly replicasWithinMs: number
}

const TOUCH_MS = 60_000
const STANDALONE_TAIL = 1024

export async function openStore(options: BackingStoreOptions): Promise<BackingStore> {
  const { own, redis, ttlMs, record, limits, clock, log } = options
  const now = (): number => clock.now()
  const counting = { ttlMs, now, limits, touchMs: TOUCH_MS }
  if (own !== undefined || redis === undefined) {
    const kept = { ...record, ttlMs, now, standaloneTail: STANDALONE_TAIL }
    const { store, ...news } = overhear(own ?? createMemoryStore(kept))
    return {
      store,
      news,
      board: createMemoryBoard({ ttlMs, now }),
      census: createLocalCensus(counting),
      ping: () => Promise.resolve(true),
      close: () => undefined,
    }
  }

  const { commands, subscriber, ping, lineOf, close } = await connectRedis(redis, (why) =>
    log({ event: 'store_awaited', why }),
  )
  const within = createDeadline(COMMAND_MS)
  const timed = withDeadline(commands, within)
  const store = createRedisStore(timed, { ...record, ttlMs, now })
  const { replicas, replicasWithinMs: withinMs } = redis
  const peers = new RedisPeers(timed, subscriber, clock)
  return {
    store: replicas === 0 ? store : onReplicas(store, { replicas, withinMs, lineOf }),
    census: createRedisCensus(timed, counting),
    peers,
    board: createRedisBoard(timed, ttlMs),
    news: { peers, listen: (id, hear) => peers.overhear(id, hear) },
    ping: () =>
      within(ping()).then(
        () => true,
        () => false,
      ),
    close,
  }
}

type Deadline = ReturnType<typeof createDeadline>

/** The commands that are used here, each of which fails if it takes too long. */
function withDeadline(redis: () => RedisCommands, within: Deadline) {
  return {
    evalSha: (...args: Parameters<RedisCommands['evalSha']>) => within(redis().evalSha(...args)),
    eval: (...args: Parameters<RedisCommands['eval']>) => within(redis().eval(...args)),
    zAdd: (...args: Parameters<RedisCommands['zAdd']>) => within(redis().zAdd(...args)),
    sPublish: (channel: string, message: string) => within(redis().sPublish(channel, message)),
    zRem: (key: string, member: string) => within(redis().zRem(key, member)),
    zRemRangeByScore: (key: string, min: string, max: number) =>
      within(redis().zRemRangeByScore(key, min, max)),
    zCard: (key: string) => within(redis().zCard(key)),
    pExpire: (key: string, ms: number) => within(redis().pExpire(key, ms)),
  }
}
