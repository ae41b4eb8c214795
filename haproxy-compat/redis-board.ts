import * as z from 'zod'
import { storeAway } from '../mcp/errors.ts'
import type { Failover, SessionName } from '../mcp/operator.ts'
import type { SessionId } from '../mcp/session/ids.ts'
import {
  SHOWN_FAILOVERS,
  SHOWN_SESSIONS,
  type BoardStore,
  type Instance,
  type Session,
} from './board-store.ts'
import { readScript, runScript, scriptOf, type RedisScripts, type Script } from './redis-scripts.ts'

//   mcp:{board}:instances   hash        name -> JSON of what it says of itself
//   mcp:{board}:reported    sorted set  names, by when they have reported (Redis' clock)
//   mcp:{board}:sessions    hash        name -> JSON of what is known, with the full id
//   mcp:{board}:used        sorted set  names, by when they were used last
//   mcp:{board}:failovers   sorted set  JSON, by when
//   mcp:{board}:drained     hash        names of instances that are to take no more calls
//   mcp:{board}:ended       sorted set  names of sessions, by when they have ended
// In one cluster slot, by the braces: one script may touch them all.
const KEYS = ['instances', 'reported', 'sessions', 'used', 'failovers', 'drained', 'ended'].map(
  (what) => `mcp:{board}:${what}`,
)

const REPORT = readScript('report.lua')
const LOOK = readScript('look.lua')
const FIND = scriptOf(
  "local text = redis.call('HGET', KEYS[3], ARGV[1]) return text and cjson.decode(text).id",
)
const DRAIN = scriptOf(
  `if not redis.call('HGET', KEYS[1], ARGV[1]) then return 0 end
  if ARGV[2] == '0' then redis.call('HDEL', KEYS[6], ARGV[1]) return 1 end
  redis.call('HSET', KEYS[6], ARGV[1], 1)
  redis.call('PEXPIRE', KEYS[6], 86400000)
  return 1`,
)
const LEAVE = scriptOf(
  "redis.call('HDEL', KEYS[1], ARGV[1]) return redis.call('ZREM', KEYS[2], ARGV[1])",
)

/** The board of all instances that share a Redis. `redis` fails what takes too long. */
export function createRedisBoard(redis: RedisScripts, ttlMs: number): BoardStore {
  const run = (script: Script, ...args: string[]): Promise<unknown> =>
    runScript(redis, script, KEYS, args).catch((error: unknown) => {
      throw storeAway(error)
    })
  return {
    async report({ shown, ...report }) {
      const args = [JSON.stringify(report), JSON.stringify(shown), String(ttlMs)]
      return { drained: (await run(REPORT, ...args)) === 1 }
    },
    async look() {
      const answer = await run(LOOK, String(SHOWN_SESSIONS), String(SHOWN_FAILOVERS))
      const [at, instances, sessions, total, failovers] = look.parse(answer)
      return {
        at,
        total,
        instances: rows(instances, 3).map(([name = '', reportedAt, text = '']) => {
          return { ...JSON.parse(text), name, reportedAt: Number(reportedAt) } as Instance
        }),
        sessions: rows(sessions, 2).map(([name, text = '']) => {
          return { ...JSON.parse(text), name } as Session
        }),
        failovers: failovers.map((text) => JSON.parse(text) as Failover),
      }
    },
    async find(name: SessionName) {
      return ((await run(FIND, name)) ?? undefined) as SessionId | undefined
    },
    async drain(instance, isDrained) {
      return (await run(DRAIN, instance, isDrained ? '1' : '0')) === 1
    },
    async leave(instance) {
      await run(LEAVE, instance)
    },
  }
}

const look = z.tuple([
  z.number(),
  z.array(z.string()),
  z.array(z.string()),
  z.number(),
  z.array(z.string()),
])

function rows(parts: readonly string[], length: number): string[][] {
  const count = Math.floor(parts.length / length)
  return Array.from({ length: count }, (_, at) => parts.slice(at * length, (at + 1) * length))
}
