import * as z from 'zod'
import { ServerError, storeAway } from '../mcp/errors.ts'
import type { Principal, SessionId, StreamId } from '../mcp/session/ids.ts'
import {
  checkState,
  parseBegin,
  parseEntry,
  parseReply,
  parseSettings,
  parseState,
  type RecordLimits,
} from '../mcp/session/record.ts'
import type {
  Asked,
  Commit,
  CommitOutcome,
  Loaded,
  Reply,
  SessionStore,
  StreamEntries,
} from '../mcp/session/store.ts'
import {
  readScript,
  runScript,
  scriptOf,
  sessionKey,
  type RedisScripts,
  type Script,
} from './redis-scripts.ts'

//   mcp:{<id>}:session   hash        begin        JSON of principal, initialize params, standalone stream
//                                    settings     JSON; missing: none were set
//                                    state        JSON        version  how many commits changed it
//                                    reply:<key>  until when it is kept, or stream:<stream> that it goes
//                                                 with; its attempt's number, and JSON of the rest
//                                    on:stream:<stream>  the field of the reply that goes with it
//                                    last:<stream>  the place of its last entry
//                                    entry:<stream>.<place>   JSON of an entry
//   mcp:{<id>}:ages      sorted set  reply:<key>, stream:<call's stream>   until when they are kept; a
//                                    running call's has no end yet
// Two keys a session, which expire together. The first one's name is also that of the channel where
// each append, and the session's end, is told.
const agesKey = (id: SessionId): string => `mcp:{${id}}:ages`

export interface RedisStoreOptions extends RecordLimits {
  readonly ttlMs: number
  readonly now: () => number
}

const STREAM = 'stream:'
const ROUTER_RETENTION_MS = 60_000
// An end that is the same for a while has to be written once in that while.
const ROUTER_ENDS_MS = 30_000
// Those of routers are among the replies that are kept, and ended streams.
const KEPT_PER_REPLY = 8

const COMMIT = readScript('commit.lua')
const LOAD = readScript('load.lua')
const ENTRIES = readScript('entries.lua')
const RUNNING = scriptOf("return redis.call('ZRANGE', KEYS[2], '+inf', '+inf', 'BYSCORE')")
const DROP = readScript('drop.lua')

/** Keeps sessions in Redis 7 or later, one script a commit. `redis` is connected already. */
export function createRedisStore(redis: RedisScripts, options: RedisStoreOptions): SessionStore {
  const { ttlMs, now } = options

  async function run(script: Script, id: SessionId, args: readonly string[]): Promise<unknown> {
    try {
      return await runScript(redis, script, [sessionKey(id), agesKey(id)], [...args])
    } catch (error) {
      throw storeAway(error)
    }
  }

  return {
    async load(id, asked = {}) {
      const { owner } = asked
      const args = [String(ttlMs), fieldOf(asked), owner === undefined ? '' : headOf(owner)]
      return parseLoaded(await run(LOAD, id, args), asked, now())
    },

    async commit(id, commit) {
      return parseOutcome(await run(COMMIT, id, pack(commit, now(), options)), commit.reply)
    },

    async entries(id, stream, after) {
      return parseEntries(await run(ENTRIES, id, [stream, String(after)]), stream)
    },

    async running(id) {
      const fields = texted.parse(await run(RUNNING, id, []))
      return fields.map((field) => field.slice(STREAM.length) as StreamId)
    },

    async drop(id) {
      return (await run(DROP, id, [])) === 1
    },
  }
}

/** The commit as the script reads it: its arguments, in their order. */
function pack(
  { begin, change, settings, reply, append = [] }: Commit,
  now: number,
  limits: RedisStoreOptions,
): string[] {
  const { ttlMs, replyRetentionMs, maxRepliesPerSession } = limits
  const text = (value: unknown): string => (value === undefined ? '' : JSON.stringify(value))
  const state = text(change?.state)
  checkState(state, limits)
  const args = [ttlMs, now, now + replyRetentionMs].map(String)
  args.push(begin ? packBegin(begin) : '', text(change?.from), state, text(settings))
  if (reply === undefined) args.push('', '', '', '')
  else {
    const { key: _, attempt, ...rest } = reply
    const until = endOf(reply, now, replyRetentionMs)
    args.push(fieldOf(reply), String(until), String(attempt?.number ?? 0), JSON.stringify(rest))
  }
  args.push(String(KEPT_PER_REPLY * maxRepliesPerSession))
  for (const { stream, at, entries } of append) {
    const begins = entries[0]?.kind === 'begin' ? 'begins' : ''
    const ends = entries.at(-1)?.kind === 'end' ? 'ends' : ''
    args.push(stream, String(at), begins + ends, String(entries.length))
    args.push(...entries.map((entry) => JSON.stringify(entry)))
  }
  return args
}

/** The principal comes first, where `load.lua` looks for it. */
function packBegin({ principal, ...rest }: NonNullable<Commit['begin']>): string {
  return headOf(principal) + JSON.stringify(rest).slice(1)
}

function headOf(principal: Principal): string {
  return `{"principal":${JSON.stringify(principal)},`
}

/** The field of a reply. Where a sender has but one request open, one takes the place of the last. */
function fieldOf({ key = '', attempt }: Asked): string {
  const isAlone = attempt !== undefined && attempt.settled === attempt.number
  return isAlone ? `reply:sender/${attempt.sender}` : `reply:${key}`
}

/** A time, or the stream that a reply goes with. */
function endOf(
  { attempt, answer, keepMs = 0 }: Reply,
  now: number,
  retentionMs: number,
): number | string {
  const usual = now + Math.max(retentionMs, keepMs)
  if (attempt === undefined) return answer.kind === 'stream' ? STREAM + answer.stream : usual
  // A router is done with a request within seconds.
  const end = Math.ceil((now + ROUTER_RETENTION_MS) / ROUTER_ENDS_MS) * ROUTER_ENDS_MS
  return Math.min(usual, end)
}

/** The reply that is kept in a field, if it is that of who asks. */
function findKept(text: string, asked: Asked, now: number): Reply | undefined {
  const { until, number, reply } = parseKept(text, asked)
  const own = asked.attempt?.number ?? 0
  if (until <= now || number < own) return undefined
  if (number === own) return reply
  const why = 'its router has an answer, and has asked for more since'
  throw new ServerError('call_interrupted', `Cannot run call: ${why}`)
}

function parseKept(text: string, { key = '', attempt }: Asked) {
  const [, until, number, rest = ''] = KEPT.exec(text) ?? []
  const reply = { ...parseReply(rest), key, attempt }
  const isOnStream = until?.startsWith(STREAM)
  return { until: isOnStream ? Infinity : Number(until), number: Number(number), reply }
}

const KEPT = /^(\S+) (\d+) (.*)$/s

function parseOutcome(answer: unknown, asked: Asked = {}): CommitOutcome {
  const [kind, value] = answer as [CommitOutcome['kind'], string | number]
  switch (kind) {
    case 'committed':
      return { kind, version: Number(value) }
    case 'answered':
      return { kind, reply: parseKept(String(value), asked).reply }
    case 'conflict':
    case 'gone':
      return { kind }
  }
}

function parseLoaded(answer: unknown, asked: Asked, now: number): Loaded | undefined {
  const [begin, settings, state, version, reply] = loaded.parse(answer ?? [])
  if (begin == null || state == null) return undefined
  const record = {
    ...parseBegin(begin),
    settings: settings == null ? { subscriptions: [] } : parseSettings(settings),
    state: parseState(state),
    version: Number(version),
  }
  return { record, reply: reply == null ? undefined : findKept(reply, asked, now) }
}

function parseEntries(answer: unknown, stream: StreamId): StreamEntries | undefined {
  const [begin, last, ...texts] = texted.parse(answer ?? [])
  if (begin === undefined) return undefined
  if (last === '0' && parseBegin(begin).standalone !== stream) return undefined
  return { at: Number(last) - texts.length + 1, entries: texts.toReversed().map(parseEntry) }
}

const loaded = z.array(z.string().nullable())
const texted = z.array(z.string())
