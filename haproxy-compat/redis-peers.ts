import type { Clock } from '../mcp/session/clock.ts'
import { parseStreamId, randomText } from '../mcp/session/ids.ts'
import type { News, Peers, RunningCall } from '../mcp/session/peers.ts'
import { channelOf, readScript, runScript, type RedisScripts } from './redis-scripts.ts'

//   mcp:leases   sorted set   <session id>/<stream id> of each running call, by when its lease runs out
const LEASES = 'mcp:leases'
const KEEP = readScript('leases.lua')

// A process that says nothing for this long is dead, or as good as dead; and it says so this often.
const LEASE_MS = 750
const BEAT_MS = 150
// The others take their share.
const MAX_ORPHANS = 8

/** What the peers need of a Redis client, beside scripts. */
export interface RedisCommands extends RedisScripts {
  zRem(key: string, member: string): Promise<unknown>
  zAdd(key: string, members: { score: number; value: string }[]): Promise<unknown>
  sPublish(channel: string, message: string): Promise<unknown>
}

/** A connection that only listens. It connects again by itself, and then says `ready` again. */
export interface RedisSubscriber {
  sSubscribe(channel: string, hear: (message: string) => void): Promise<void>
  sUnsubscribe(channel: string, hear: (message: string) => void): Promise<void>
  on(event: 'ready', act: () => void): unknown
}

export interface RedisPeers extends Peers {
  /** Keeps this process's leases, and hands over the calls of processes that do not keep theirs. */
  start(takeOver: (call: RunningCall) => Promise<void>): void
  /** Gives up all leases at once: others go on with the calls that run here. */
  stop(): Promise<void>
}

export function createRedisPeers(
  redis: RedisCommands,
  subscriber: RedisSubscriber,
  clock: Clock,
): RedisPeers {
  const self = randomText(6)
  const held = new Set<string>()
  const listeners = new Set<(news: News) => void>()
  let stopped = false
  subscriber.on('ready', () => {
    for (const hear of listeners) hear({ kind: 'missed' })
  })

  async function keep(orphans: number, claim: string, calls: Iterable<string>): Promise<string[]> {
    const args = [String(LEASE_MS), String(orphans), claim, ...calls]
    return (await runScript(redis, KEEP, [LEASES], args)) as string[]
  }

  async function beat(takeOver: (call: RunningCall) => Promise<void>): Promise<void> {
    const orphans = await keep(MAX_ORPHANS, '', held)
    // One that can't be taken over now is an orphan again when its new lease has run out.
    for (const orphan of orphans) takeOver(parseCall(orphan)).catch(() => undefined)
  }

  return {
    listen(id, hear) {
      const channel = channelOf(id)
      const onMessage = (message: string): void => {
        const news = parseNews(message, self)
        if (news !== undefined) hear(news)
      }
      listeners.add(hear)
      // Only what is said from now on is heard.
      const heard = (): void => hear({ kind: 'missed' })
      subscriber.sSubscribe(channel, onMessage).then(heard, () => undefined)
      return () => {
        listeners.delete(hear)
        subscriber.sUnsubscribe(channel, onMessage).catch(() => undefined)
      }
    },
    follows(id, stream) {
      redis.sPublish(channelOf(id), `followed ${stream} ${self}`).catch(() => undefined)
    },
    hold(call) {
      const name = nameOf(call)
      held.add(name)
      // Should it fail, the next beat tells.
      keep(0, '', [name]).catch(() => undefined)
    },
    letGo(call, ended) {
      const name = nameOf(call)
      held.delete(name)
      if (ended) redis.zRem(LEASES, name).catch(() => undefined)
    },
    async claim(call) {
      return (await keep(0, nameOf(call), [])).length > 0
    },
    start(takeOver) {
      const next = (): void => {
        clock.timer(BEAT_MS, () => {
          if (stopped) return
          void beat(takeOver)
            .catch(() => undefined)
            .finally(next)
        })
      }
      next()
    },
    async stop() {
      stopped = true
      const expired = Array.from(held, (value) => ({ score: 0, value }))
      if (expired.length > 0) await redis.zAdd(LEASES, expired).catch(() => undefined)
    },
  }
}

function nameOf({ id, stream }: RunningCall): string {
  return `${id}/${stream}`
}

function parseCall(name: string): RunningCall {
  const [id, stream] = name.split('/')
  return { id, stream } as RunningCall
}

/** `undefined` for what is no news: said here, or in words of another release. */
function parseNews(message: string, self: string): News | undefined {
  const [kind, text = '', detail] = message.split(' ')
  if (kind === 'ended') return { kind }
  const stream = parseStreamId(text)
  if (stream === undefined) return undefined
  if (kind === 'grown') return { kind, stream, last: Number(detail) }
  if (kind === 'followed' && detail !== self) return { kind, stream }
  return undefined
}
