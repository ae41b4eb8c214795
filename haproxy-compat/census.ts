import { storeAway } from '../mcp/errors.ts'
import type { Limits } from '../mcp/limits.ts'
import { Admission, pace, tooManySessions, type Census } from '../mcp/session/census.ts'
import type { SessionId } from '../mcp/session/ids.ts'
import type { SessionRecord } from '../mcp/session/store.ts'
import { readScript, runScript, type RedisScripts } from './redis-scripts.ts'

//   mcp:sessions                       sorted set   ids of the sessions that have state, by when they expire
//   mcp:source:{<source>}:sessions     sorted set   ids of the sessions that a source has opened, likewise
//   mcp:source:{<source>}:due          when its next one would be due, if they came evenly
const SESSIONS = 'mcp:sessions'
const openedKey = (source: string): string => `mcp:source:{${source}}:sessions`
const dueKey = (source: string): string => `mcp:source:{${source}}:due`

const ADMIT = readScript('admit.lua')

/** What the census needs of a Redis client. */
export interface RedisSortedSets extends RedisScripts {
  zAdd(key: string, member: { score: number; value: string }): Promise<unknown>
  zRem(key: string, member: string): Promise<unknown>
  zRemRangeByScore(key: string, min: string, max: number): Promise<unknown>
  zCard(key: string): Promise<number>
  pExpire(key: string, ms: number): Promise<unknown>
}

export interface CensusOptions {
  readonly ttlMs: number
  readonly now: () => number
  /** A use is put on record at most this often: a session is counted this much too long. */
  readonly touchMs: number
  readonly limits: Pick<Limits, 'maxSessionsPerCaller' | 'sessionsPerMinute'>
}

export interface CountingCensus extends Census {
  /** The sessions that have state, on all instances. */
  count(): Promise<number>
}

/** For all instances that share a Redis. What a lost command leaves wrong, the next use mends. */
export function createRedisCensus(redis: RedisSortedSets, options: CensusOptions): CountingCensus {
  const { ttlMs, touchMs, now, limits } = options
  const isDue = atMostEvery(touchMs, now)
  const countedMs = ttlMs + touchMs
  const { intervalMs, toleranceMs } = pace(limits)

  async function touch(id: SessionId, { version, source }: SessionRecord): Promise<void> {
    const entry = { score: now() + countedMs, value: id }
    if (version > 0) {
      await redis.zAdd(SESSIONS, entry)
      await redis.zRemRangeByScore(SESSIONS, '-inf', now())
      await redis.pExpire(SESSIONS, countedMs)
    }
    if (source === undefined) return
    await redis.zAdd(openedKey(source), entry)
    await redis.pExpire(openedKey(source), countedMs)
  }

  async function untouch(id: SessionId, source: string | undefined): Promise<void> {
    await redis.zRem(SESSIONS, id)
    if (source !== undefined) await redis.zRem(openedKey(source), id)
  }

  return {
    async admit(id, source) {
      const keys = [openedKey(source), dueKey(source)]
      const numbers = [countedMs, limits.maxSessionsPerCaller, intervalMs, toleranceMs]
      const admitted = runScript(redis, ADMIT, keys, [id, ...numbers.map(String)])
      const answer = await admitted.catch((error: unknown) => {
        throw storeAway(error)
      })
      if (answer !== 1) throw tooManySessions()
    },
    seen(id, record) {
      if (isDue(id, record)) touch(id, record).catch(() => isDue.forget(id))
    },
    ended(id, source) {
      isDue.forget(id)
      untouch(id, source).catch(() => undefined)
    },
    async count() {
      try {
        await redis.zRemRangeByScore(SESSIONS, '-inf', now())
        return await redis.zCard(SESSIONS)
      } catch (error) {
        throw storeAway(error)
      }
    },
  }
}

/** For one process alone. */
export function createLocalCensus({ ttlMs, now, limits }: CensusOptions): CountingCensus {
  const withState = new Admission()
  const sources = new Map<string, Admission>()

  return {
    async admit(id, source) {
      for (const [name, opened] of sources) if (opened.isOver(now())) sources.delete(name)
      withState.alive(now())
      const opened = sources.get(source) ?? new Admission()
      sources.set(source, opened)
      if (!opened.admit(id, now(), now() + ttlMs, limits)) throw tooManySessions()
    },
    seen(id, { source, version }) {
      if (version > 0) withState.report(id, now() + ttlMs)
      if (source !== undefined) sources.get(source)?.report(id, now() + ttlMs)
    },
    ended(id, source) {
      withState.report(id, 0)
      if (source !== undefined) sources.get(source)?.report(id, 0)
    },
    count: async () => withState.alive(now()).length,
  }
}

/**
 * Whether a use is to be put on record. A session's first change is, however soon it comes: from
 * then on it has state.
 */
function atMostEvery(ms: number, now: () => number) {
  const recorded = new Map<SessionId, { readonly at: number; readonly hasState: boolean }>()

  function isDue(id: SessionId, { version }: SessionRecord): boolean {
    const hasState = version > 0
    const last = recorded.get(id)
    if (last !== undefined && now() - last.at < ms && last.hasState === hasState) return false
    recorded.delete(id)
    recorded.set(id, { at: now(), hasState })
    // The oldest come first; one that has not been seen for long is recorded anew anyway.
    for (const [old, { at }] of recorded) {
      if (now() - at < ms) break
      recorded.delete(old)
    }
    return true
  }
  return Object.assign(isDue, { forget: (id: SessionId) => void recorded.delete(id) })
}
