import { sleep, type Clock } from '../mcp/session/clock.ts'
import { parseStreamId, randomText, type SessionId, type StreamId } from '../mcp/session/ids.ts'
import type { News, Peers, Relay, RunningCall } from '../mcp/session/peers.ts'
import { sessionKey, readScript, runScript, type RedisScripts } from './redis-scripts.ts'

//   mcp:leases   sorted set   <session id>/<stream id> of each running call, by when its lease runs out
const LEASES = 'mcp:leases'
// The channel of what is news to all processes.
const EVERYBODY = 'mcp:everybody'
const KEEP = readScript('leases.lua')

// A process that says nothing for this long is dead, or as good as dead; and it says so this often.
const LEASE_MS = 500
const BEAT_MS = 100
// The others take their share.
const MAX_ORPHANS = 8
// How long it takes to ask a connection again that was lost when it was asked.
const AGAIN_MS = 100

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

export class RedisPeers implements Peers, Relay {
  readonly #redis: RedisCommands
  readonly #subscriber: RedisSubscriber
  readonly #clock: Clock
  /** This process among those that share the store. */
  readonly #self = randomText(6)
  readonly #held = new Set<string>()
  readonly #listeners = new Set<(news: News) => void>()
  /** What is being done about a channel. */
  readonly #turns = new Map<string, Promise<void>>()
  #stopped = false

  constructor(redis: RedisCommands, subscriber: RedisSubscriber, clock: Clock) {
    this.#redis = redis
    this.#subscriber = subscriber
    this.#clock = clock
    subscriber.on('ready', () => {
      for (const hear of this.#listeners) hear({ kind: 'missed' })
    })
  }

  listen(id: SessionId, hear: (news: News) => void): () => void {
    return this.#listen(id, hear, this.#self)
  }

  /** The same, and what this process says of itself. */
  overhear(id: SessionId, hear: (news: News) => void): () => void {
    return this.#listen(id, hear, '')
  }

  #listen(id: SessionId, hear: (news: News) => void, self: string): () => void {
    const channel = sessionKey(id)
    const onMessage = (message: string): void => {
      const news = parseNews(message, self)
      if (news !== undefined) hear(news)
    }
    const state = { wanted: true, subscribed: false }
    this.#listeners.add(hear)
    void this.#inTurn(channel, async () => {
      if (!state.wanted) return
      await this.#subscriber.sSubscribe(channel, onMessage)
      state.subscribed = true
      // Only what is said from now on is heard.
      hear({ kind: 'missed' })
    })
    return () => {
      this.#listeners.delete(hear)
      state.wanted = false
      void this.#inTurn(channel, async () => {
        if (state.subscribed) await this.#subscriber.sUnsubscribe(channel, onMessage)
      })
    }
  }

  follows(id: SessionId, stream: StreamId): void {
    const message = `followed ${stream} ${this.#self}`
    this.#redis.sPublish(sessionKey(id), message).catch(() => undefined)
  }

  hold(call: RunningCall): void {
    const name = nameOf(call)
    this.#held.add(name)
    // Should it fail, the next beat tells.
    this.#keep({ calls: [name] }).catch(() => undefined)
  }

  letGo(call: RunningCall, ended: boolean): void {
    const name = nameOf(call)
    this.#held.delete(name)
    if (ended) this.#redis.zRem(LEASES, name).catch(() => undefined)
  }

  async claim(call: RunningCall): Promise<boolean> {
    // Whoever can ask claims it later.
    const taken = await this.#keep({ claim: nameOf(call) }).catch(() => [])
    return taken.length > 0
  }

  /**
   * Keeps this process's leases. As long as it `takesMore`, it hands over the calls of processes
   * that do not keep theirs.
   */
  start(takeOver: (call: RunningCall) => Promise<void>, takesMore: () => boolean): void {
    const beat = async (): Promise<number> => {
      const limit = takesMore() ? MAX_ORPHANS : 0
      const orphans = await this.#keep({ calls: this.#held, orphans: limit })
      // One that can't be taken over now is an orphan again when its new lease has run out.
      for (const orphan of orphans) takeOver(parseCall(orphan)).catch(() => undefined)
      // Who died had more of them: those do not wait.
      return orphans.length === MAX_ORPHANS ? 0 : BEAT_MS
    }
    const plan = (inMs: number): void => {
      this.#clock.timer(inMs, () => {
        if (!this.#stopped) void beat().then(plan, () => plan(BEAT_MS))
      })
    }
    plan(BEAT_MS)
  }

  /** Tells all processes that share the Redis, this one too. */
  tell(word: string): void {
    this.#redis.sPublish(EVERYBODY, word).catch(() => undefined)
  }

  hear(act: (word: string) => void): void {
    void this.#inTurn(EVERYBODY, () => this.#subscriber.sSubscribe(EVERYBODY, act))
  }

  /** Keeps no leases any more, and gives up those that it has. */
  async stop(): Promise<void> {
    this.#stopped = true
    await this.handOver()
  }

  /** Gives up all leases at once: others go on with the calls that run here. */
  async handOver(): Promise<void> {
    const expired = Array.from(this.#held, (value) => ({ score: 0, value }))
    this.#held.clear()
    if (expired.length > 0) await this.#redis.zAdd(LEASES, expired).catch(() => undefined)
  }

  /**
   * Until it is done, and one after the other: the client subscribes again by itself to what it had,
   * not to what it was being asked, and who comes while it unsubscribes may be left without.
   */
  #inTurn(channel: string, act: () => Promise<void>): Promise<void> {
    const before = this.#turns.get(channel) ?? Promise.resolve()
    const done = before.then(() => this.#insist(act))
    this.#turns.set(channel, done)
    return done.finally(() => {
      if (this.#turns.get(channel) === done) this.#turns.delete(channel)
    })
  }

  async #insist(act: () => Promise<void>): Promise<void> {
    while (!this.#stopped && !(await act().then(isDone, isNotDone))) {
      await sleep(this.#clock, AGAIN_MS)
    }
  }

  /** Answers the calls whose leases were taken. */
  async #keep({ calls = [], claim = '', orphans = 0 }: Keep): Promise<string[]> {
    const args = [String(LEASE_MS), String(orphans), claim, ...calls]
    return (await runScript(this.#redis, KEEP, [LEASES], args)) as string[]
  }
}

interface Keep {
  /** Those that run here. */
  readonly calls?: Iterable<string>
  /** To take if nobody has it. */
  readonly claim?: string
  /** How many others that nobody has may be taken. */
  readonly orphans?: number
}

const isDone = (): boolean => true
const isNotDone = (): boolean => false

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
  if (kind === 'changed') return { kind, version: Number(text) }
  const stream = parseStreamId(text)
  if (stream === undefined) return undefined
  if (kind === 'grown') return { kind, stream, last: Number(detail) }
  if (kind === 'followed' && detail !== self) return { kind, stream }
  return undefined
}
