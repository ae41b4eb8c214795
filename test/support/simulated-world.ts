import { ServerError } from '../../mcp/errors.ts'
import type { Clock } from '../../mcp/session/clock.ts'
import type { SessionId } from '../../mcp/session/ids.ts'
import type { LocalRouter } from '../../mcp/session/local-router.ts'
import { createMemoryStore } from '../../mcp/session/memory-store.ts'
import type { News, Peers, RunningCall } from '../../mcp/session/peers.ts'
import type { SessionStore } from '../../mcp/session/store.ts'
import type { Pack } from '../../mcp/session/tool.ts'
import { createLocalApp } from './local-app.ts'

// As in redis-peers.ts.
const LEASE_MS = 750
const BEAT_MS = 150
const MAX_ORPHANS = 8

const DAY_MS = 24 * 60 * 60 * 1000
const SLOTS = 3

export interface WorldOptions {
  readonly seed: number
  readonly packOf: (world: World) => Pack
  /** Breaks the store itself. */
  readonly breakStore?: ((store: SessionStore) => SessionStore) | undefined
  /** Breaks what an instance makes of it. */
  readonly breakInstance?: ((store: SessionStore) => SessionStore) | undefined
}

/** A process: it goes on only by events that it owns, so one that has died stays where it was. */
export interface Instance {
  readonly name: string
  readonly slot: number
  readonly router: LocalRouter
  readonly connections: Set<() => void>
  /** The calls that it keeps leases on. */
  readonly held: Set<string>
  alive: boolean
  beats: boolean
  pausedUntil: number
}

interface Happening {
  at: number
  readonly order: number
  readonly owner: Instance | undefined
  readonly act: () => void
}

type Listener = { instance: Instance; id: SessionId; hear: (news: News) => void; active: boolean }
type Fate = 'done' | 'refused' | 'unanswered' | 'dies before' | 'dies after'

/**
 * Some instances over one store, with time, chance and all that goes wrong from one seed. Nothing
 * happens but by `run`: between two happenings every promise that can go on has done so.
 */
export class World {
  /** While it lasts, requests are slow or lost, and instances die. */
  trouble = true
  now = 1_700_000_000_000
  /** Counts what has happened. */
  tick = 0
  readonly steps: string[] = []
  readonly counts: Record<string, number> = {}
  readonly store: SessionStore
  readonly #options: WorldOptions
  readonly #random: () => number
  readonly #queue: Happening[] = []
  readonly #slots: (Instance | undefined)[] = []
  readonly #leases = new Map<string, number>()
  readonly #listeners = new Set<Listener>()
  #order = 0
  #born = 0

  constructor(options: WorldOptions) {
    this.#options = options
    this.#random = randomFrom(options.seed)
    const { breakStore = (store: SessionStore) => store } = options
    this.store = this.#publishing(breakStore(this.#createStore()))
    for (let slot = 0; slot < SLOTS; slot++) this.#start(slot)
  }

  happens(probability: number): boolean {
    return this.#random() < probability
  }

  /** A whole number from 0 to `count - 1`. */
  below(count: number): number {
    return Math.floor(this.#random() * count)
  }

  /** How long a message is on its way. */
  latency(): number {
    if (!this.trouble) return 1
    const kind = this.#random()
    if (kind < 0.85) return 1 + this.below(3)
    return kind < 0.97 ? this.below(60) : this.below(1500)
  }

  note(step: string): void {
    const kind = step.replace(/^\S+ /, '').replaceAll(/[^a-z ]/g, '')
    this.counts[kind] = (this.counts[kind] ?? 0) + 1
    this.steps.push(`${this.now - 1_700_000_000_000} ${step}`)
  }

  later(ms: number, owner: Instance | undefined, act: () => void): () => void {
    const happening = { at: this.now + ms, order: ++this.#order, owner, act }
    this.#insert(happening)
    return () => {
      const at = this.#queue.indexOf(happening)
      if (at >= 0) this.#queue.splice(at, 1)
    }
  }

  sleep(ms: number): Promise<void> {
    return new Promise((resolve) => void this.later(ms, undefined, resolve))
  }

  /** Lets things happen until `done`; false if that takes longer than `ms`. */
  async run(ms: number, done: () => boolean): Promise<boolean> {
    const limit = this.now + ms
    while (!done()) {
      const [next] = this.#queue
      if (next === undefined || next.at > limit) {
        this.now = limit
        return false
      }
      this.#queue.shift()
      if (next.owner?.alive === false) continue
      this.now = Math.max(this.now, next.at)
      if (next.owner !== undefined && next.owner.pausedUntil > this.now) {
        next.at = next.owner.pausedUntil
        this.#insert(next)
        continue
      }
      this.tick++
      next.act()
      await new Promise((resolve) => void setImmediate(resolve))
    }
    return true
  }

  /** The instance that a client reaches, if it runs. */
  reach(): Instance | undefined {
    return this.#slots[this.below(SLOTS)]
  }

  instance(name: string): Instance | undefined {
    return this.#slots.find((one) => one?.name === name)
  }

  /** Nothing that it had in memory is left, and who was connected to it is not any more. */
  crash(instance: Instance): void {
    if (!instance.alive) return
    this.note(`${instance.name} dies`)
    instance.alive = false
    this.#slots[instance.slot] = undefined
    for (const cut of instance.connections) this.later(this.latency(), undefined, cut)
    for (const one of this.#listeners) if (one.instance === instance) this.#listeners.delete(one)
    this.later(this.below(2000), undefined, () => this.#start(instance.slot))
  }

  /** It stands still, and thinks that it does not. */
  pause(instance: Instance, ms: number): void {
    this.note(`${instance.name} pauses`)
    instance.pausedUntil = this.now + ms
  }

  /** It gives its calls to the others, though it has not let go of them, and dies soon. */
  drain(instance: Instance): void {
    this.note(`${instance.name} drains`)
    instance.beats = false
    for (const name of instance.held) this.#leases.set(name, 0)
    this.later(this.below(1000), instance, () => this.crash(instance))
  }

  #start(slot: number): void {
    const name = `i${++this.#born}`
    const clock: Clock = {
      now: () => this.now,
      timer: (ms, fire) => this.later(ms, instance, fire),
    }
    const store: SessionStore = {
      load: (id, key) => this.#ask(instance, 'load', () => this.store.load(id, key)),
      commit: (id, commit) =>
        this.#ask(instance, 'commit', () => {
          // A new call's lease is asked for by the same connection, right before.
          const begun = (commit.append ?? []).filter(({ at }) => at === 1)
          for (const { stream } of begun) this.#hold({ id, stream })
          return this.store.commit(id, commit)
        }),
      entries: (id, stream, after) =>
        this.#ask(instance, 'entries', () => this.store.entries(id, stream, after)),
      running: (id) => this.#ask(instance, 'running', () => this.store.running(id)),
      drop: (id) => this.#ask(instance, 'drop', () => this.store.drop(id)),
    }
    const { packOf, breakInstance = (one: SessionStore) => one } = this.#options
    const held = new Set<string>()
    const instance: Instance = {
      name,
      slot,
      held,
      alive: true,
      beats: true,
      pausedUntil: 0,
      connections: new Set(),
      router: createLocalApp({
        // A question stays open for 4 seconds.
        env: { SESSION_TTL_SECONDS: '4', QUICK_REPLY_MS: '100' },
        clock,
        pack: packOf(this),
        store: breakInstance(store),
        instance: name,
        liveIdleMs: 1500,
        peers: this.#peersOf(() => instance),
        onEvent: ({ event }) => {
          if (event === 'call_taken_over' || event === 'commit_conflict') {
            this.note(`${name} ${event.replaceAll('_', ' ')}`)
          }
        },
      }).router,
    }
    this.#slots[slot] = instance
    this.#beat(instance)
  }

  /** A request to the store and its answer, either of which may be lost. */
  #ask<T>(instance: Instance, what: string, act: () => Promise<T>): Promise<T> {
    const { promise, resolve, reject } = Promise.withResolvers<T>()
    if (!instance.alive) return promise
    const fate = this.#fate()
    if (fate !== 'done') this.note(`${instance.name} ${what} ${fate}`)
    if (fate === 'dies before') {
      this.crash(instance)
    } else if (fate === 'refused') {
      this.later(this.latency(), instance, () => reject(away()))
    } else {
      // Once it is on its way it arrives, whatever becomes of who sent it.
      this.later(this.latency(), undefined, () => {
        const answer = (result: T): void => {
          if (fate === 'dies after') this.crash(instance)
          const end = () => (fate === 'unanswered' ? reject(away()) : resolve(result))
          this.later(this.latency(), instance, end)
        }
        act().then(answer, reject)
      })
    }
    return promise
  }

  #fate(): Fate {
    if (!this.trouble) return 'done'
    const kind = this.#random()
    if (kind < 0.96) return 'done'
    if (kind < 0.975) return 'refused'
    if (kind < 0.99) return 'unanswered'
    return kind < 0.995 ? 'dies before' : 'dies after'
  }

  #peersOf(self: () => Instance): Peers {
    return {
      listen: (id, hear) => {
        const listener = { instance: self(), id, hear, active: false }
        if (self().alive) this.#listeners.add(listener)
        this.later(this.latency(), self(), () => {
          listener.active = true
          if (this.#listeners.has(listener)) hear({ kind: 'missed' })
        })
        return () => this.#listeners.delete(listener)
      },
      follows: (id, stream) => this.#publish(id, { kind: 'followed', stream }, self()),
      hold: (call) => {
        if (!self().alive) return
        self().held.add(nameOf(call))
        this.#hold(call)
      },
      letGo: (call, ended) => {
        if (!self().alive) return
        self().held.delete(nameOf(call))
        if (!ended || (this.trouble && this.happens(0.1))) return
        this.later(this.latency(), undefined, () => this.#leases.delete(nameOf(call)))
      },
      claim: (call) =>
        this.#ask(self(), 'claim', async () => this.#claim(nameOf(call), this.now + LEASE_MS)),
    }
  }

  #hold(call: RunningCall): void {
    this.#leases.set(nameOf(call), this.now + LEASE_MS)
  }

  #claim(name: string, until: number): boolean {
    if ((this.#leases.get(name) ?? 0) > this.now) return false
    this.#leases.set(name, until)
    return true
  }

  #beat(instance: Instance): void {
    this.later(BEAT_MS, instance, () => {
      if (!instance.beats) return
      this.#beat(instance)
      if (this.trouble && this.happens(0.05)) return
      const until = this.now + LEASE_MS
      for (const name of instance.held) this.#leases.set(name, until)
      const lapsed = [...this.#leases].filter(([, at]) => at <= this.now).slice(0, MAX_ORPHANS)
      for (const [name] of lapsed) {
        this.#leases.set(name, until)
        const takeOver = () => instance.router.takeOver(parseCall(name)).catch(() => undefined)
        this.later(this.latency(), instance, () => void takeOver())
      }
    })
  }

  #publish(id: SessionId, news: News, from?: Instance): void {
    for (const listener of this.#listeners) {
      if (listener.id !== id || !listener.active || listener.instance === from) continue
      const hear = (what: News) => () => {
        if (this.#listeners.has(listener)) listener.hear(what)
      }
      if (this.trouble && this.happens(0.1)) {
        this.later(this.below(600), listener.instance, hear({ kind: 'missed' }))
        continue
      }
      const times = this.trouble && this.happens(0.1) ? 2 : 1
      for (let n = 0; n < times; n++) this.later(this.latency(), listener.instance, hear(news))
    }
  }

  /** As commit.lua does. */
  #publishing(store: SessionStore): SessionStore {
    return {
      ...store,
      commit: async (id, commit) => {
        const outcome = await store.commit(id, commit)
        if (outcome.kind !== 'committed') return outcome
        for (const { stream, at, entries } of commit.append ?? []) {
          this.#publish(id, { kind: 'grown', stream, last: at + entries.length - 1 })
        }
        return outcome
      },
    }
  }

  #createStore(): SessionStore {
    const record = { replyRetentionMs: DAY_MS, maxRepliesPerSession: 1000 }
    return createMemoryStore({ ...record, ttlMs: DAY_MS, now: () => this.now, standaloneTail: 100 })
  }

  #insert(happening: Happening): void {
    const isLater = (one: Happening): boolean =>
      one.at > happening.at || (one.at === happening.at && one.order > happening.order)
    let at = this.#queue.length
    for (let one = this.#queue[at - 1]; one !== undefined && isLater(one);) {
      one = this.#queue[--at - 1]
    }
    this.#queue.splice(at, 0, happening)
  }
}

/** Numbers from 0 to 1, the same for the same seed (mulberry32). */
function randomFrom(seed: number): () => number {
  let state = seed | 0
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

function away(): ServerError {
  return new ServerError('store_unavailable', 'Cannot reach store')
}

function nameOf({ id, stream }: RunningCall): string {
  return `${id}/${stream}`
}

function parseCall(name: string): RunningCall {
  const [id, stream] = name.split('/')
  return { id, stream } as RunningCall
}
