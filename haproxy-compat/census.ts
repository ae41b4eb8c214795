import type { SessionId } from '../mcp/session/ids.ts'
import type { SessionStore } from '../mcp/session/store.ts'

//   mcp:sessions   sorted set   ids of the sessions that have state, by when they expire
const SESSIONS = 'mcp:sessions'

/** What the census needs of a Redis client. */
export interface RedisSortedSet {
  zAdd(key: string, member: { score: number; value: string }): Promise<unknown>
  zRem(key: string, member: string): Promise<unknown>
  zRemRangeByScore(key: string, min: string, max: number): Promise<unknown>
  zCard(key: string): Promise<number>
}

export interface CensusOptions {
  readonly ttlMs: number
  readonly now: () => number
  /** A session is put on record at most this often: its entry may end this much too late. */
  readonly touchMs: number
}

export interface Census {
  readonly store: SessionStore
  /** The sessions that have state, on all instances. */
  readonly count: () => Promise<number>
}

/**
 * Counts sessions for the status tools: apart from the commits, and never in a call's way. What a
 * lost command leaves wrong, the session's next use or its expiry mends.
 */
export function takeCensus(
  store: SessionStore,
  redis: RedisSortedSet,
  { ttlMs, now, touchMs }: CensusOptions,
): Census {
  const recorded = new Map<SessionId, number>()

  function seen(id: SessionId): void {
    if (now() - (recorded.get(id) ?? 0) < touchMs) return
    recorded.delete(id)
    recorded.set(id, now())
    // The oldest come first; one that has not been seen for long is recorded anew anyway.
    for (const [old, at] of recorded) {
      if (now() - at < touchMs) break
      recorded.delete(old)
    }
    const entry = { score: now() + ttlMs + touchMs, value: id }
    redis.zAdd(SESSIONS, entry).catch(() => recorded.delete(id))
  }

  return {
    store: {
      ...store,
      async load(id, key) {
        const loaded = await store.load(id, key)
        if (loaded !== undefined && loaded.record.version > 0) seen(id)
        return loaded
      },
      async commit(id, commit) {
        const outcome = await store.commit(id, commit)
        if (outcome.kind === 'committed' && outcome.version > 0) seen(id)
        return outcome
      },
      async drop(id) {
        recorded.delete(id)
        redis.zRem(SESSIONS, id).catch(() => undefined)
        return store.drop(id)
      },
    },
    async count() {
      await redis.zRemRangeByScore(SESSIONS, '-inf', now())
      return redis.zCard(SESSIONS)
    },
  }
}
