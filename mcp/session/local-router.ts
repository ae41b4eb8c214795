import { Ears } from './ears.ts'
import { HeldSessions, type HeldOptions } from './held-sessions.ts'
import { eventId, type Principal, type SessionId, type StreamId } from './ids.ts'
import { refusalOf } from './refusal.ts'
import { alone, type News, type Peers, type RunningCall } from './peers.ts'
import type {
  Answer,
  Following,
  FollowRequest,
  Opened,
  Post,
  SessionHolder,
  SessionRound,
  SessionRouter,
  StreamEvent,
  Watch,
} from './router.ts'
import { unmetered } from '../meter.ts'
import { activityOf, nobody, type Activity, type Onlooker } from './onlooker.ts'
import { openSession, restoreRuntime } from './open-session.ts'
import { OpenStreams } from './open-streams.ts'
import type { RuntimeOptions, SessionRuntime } from './runtime.ts'
import type { JsonObject, SessionState } from './state.ts'
import { Followers, locate, type Start } from './streams.ts'
import { uncounted, type Census } from './census.ts'
import type { SessionRecord } from './store.ts'
import { Watches } from './watches.ts'

export interface LocalRouterOptions
  extends
    HeldOptions,
    Omit<RuntimeOptions, 'id' | 'grown' | 'changed' | 'detach' | 'stateOf' | 'hold' | 'letGo'> {
  /** Unset: no other process shares the store. */
  readonly peers?: Peers
  /** Unset: nobody counts. */
  readonly census?: Census
  /** Unset: nobody looks on. */
  readonly onlooker?: Onlooker
  readonly ids: {
    mint(): SessionId
    /** Whether `id` is one of ours; no store is asked about any other. */
    isMinted(id: string): boolean
  }
}

/** Holds sessions in this process, and restores from the store those that it does not hold yet. */
export class LocalRouter implements SessionRouter, SessionHolder {
  readonly #options: LocalRouterOptions
  readonly #held: HeldSessions
  readonly #followers: Followers
  readonly #ears: Ears
  /** The calls that run here and have a log, and how to listen to their sessions no longer. */
  readonly #running = new Map<StreamId, () => void>()
  readonly #peers: Peers
  readonly #watches = new Watches()
  readonly #census: Census
  readonly #openStreams: OpenStreams
  readonly #onlooker: Onlooker

  constructor(options: LocalRouterOptions) {
    this.#options = options
    this.#held = new HeldSessions(options)
    this.#peers = options.peers ?? alone
    this.#ears = new Ears(this.#peers, (id, news) => void this.#hear(id, news))
    this.#census = options.census ?? uncounted
    this.#onlooker = options.onlooker ?? nobody
    this.#openStreams = new OpenStreams(options.limits.maxStreamsPerSession)
    this.#followers = new Followers(options.clock)
  }

  async open(post: Post): Promise<Opened> {
    const id = this.#options.ids.mint()
    const { source = post.principal } = post
    await this.#census.admit(id, source)
    const opened = await openSession(post, this.#runtimeOptions(id))
    if (opened.kind !== 'opened') {
      this.#census.ended(id, source)
      return opened
    }
    this.#onlooker.used(id, opened.runtime.record)
    this.#held.use(id, () => Promise.resolve(opened.runtime))
    await this.#held.letGo()
    return { kind: 'opened', id, body: opened.body }
  }

  async deliver(id: SessionId, post: Post): Promise<Answer> {
    const answer = await this.#use(id, post.principal, (runtime) => runtime.deliver(post))
    if (answer?.kind === 'gone') this.#held.delete(id)
    return answer ?? { kind: 'gone' }
  }

  async follow(id: SessionId, principal: Principal, request: FollowRequest): Promise<Following> {
    const { store, log, ids } = this.#options
    // Many streams are open and quiet, so following one takes no runtime.
    const owned = { owner: principal }
    const record = ids.isMinted(id) ? (await store.load(id, owned))?.record : undefined
    if (record === undefined) return { kind: 'gone' }
    this.#used(id, record)
    this.#held.sweepLater()
    try {
      const start = await locate(store, id, record, request.lastEventId)
      const call = { id, stream: start.stream }
      const isOpen = start.stream !== record.standalone && !start.ended
      if (isOpen && !this.#running.has(start.stream) && (await this.#peers.claim(call))) {
        await this.takeOver(call)
      }
      return { kind: 'following', after: eventId(start), events: this.#follow(id, start, request) }
    } catch (error) {
      return refusalOf(error, log)
    }
  }

  /** Without a principal it is ended whoever's it is. */
  async end(id: SessionId, principal?: Principal): Promise<boolean> {
    const existed = await this.#use(id, principal, async (runtime) => {
      this.#held.delete(id)
      const dropped = await this.#options.store.drop(id)
      this.#endStreams(id)
      this.#census.ended(id, runtime.record.source)
      this.#onlooker.ended(id)
      if (dropped) this.#options.log({ event: 'session_ended', session: id, why: 'deleted' })
      await runtime.close()
      return dropped
    })
    return existed ?? false
  }

  async round(
    id: SessionId,
    principal: Principal,
    round: SessionRound,
  ): Promise<JsonObject | undefined> {
    return this.#use(id, principal, (runtime) => {
      return runtime.round(round).finally(() => this.#onlooker.called(id))
    })
  }

  async stateOf(id: string, principal: Principal): Promise<SessionState | undefined> {
    if (!this.#options.ids.isMinted(id)) return undefined
    const loaded = await this.#options.store.load(id as SessionId, { owner: principal })
    if (loaded !== undefined) this.#used(id as SessionId, loaded.record)
    return loaded?.record.state
  }

  async watch(id: SessionId, watch: Watch): Promise<void> {
    const version = (await this.#options.store.load(id))?.record.version ?? 0
    this.#watches.add(id, watch, version)
    watch.signal.addEventListener('abort', this.#ears.listen(id))
  }

  /** Goes on with a call whose lease was claimed for this process. */
  async takeOver(call: RunningCall): Promise<void> {
    const { id, stream } = call
    const taken = await this.#use(id, undefined, (runtime) => runtime.takeOver(stream))
    // It has ended, or its session has.
    if (taken === undefined || taken === 'over') this.#peers.letGo(call, true)
  }

  /** Resolves when no call runs here. A session that could not be restored has none. */
  async idle(): Promise<void> {
    const runtimes = Array.from(this.#held, ([, { runtime }]) => runtime.catch(() => undefined))
    await Promise.all(runtimes.map(async (runtime) => (await runtime)?.idle()))
  }

  /** Ends streams that are followed here; `quiet` are those of no call that runs here. */
  detach(which: 'all' | 'quiet'): void {
    this.#followers.endAll((stream) => which === 'all' || !this.#running.has(stream))
  }

  /** What goes on here now. */
  get activity(): Activity {
    return activityOf(this.#held, this.#openStreams)
  }

  /**
   * Has `act` use the session's runtime, which is not let go meanwhile; `undefined` if there is none.
   * Without a principal it is used for the session's own sake.
   */
  async #use<T>(
    id: SessionId,
    principal: Principal | undefined,
    act: (runtime: SessionRuntime) => Promise<T>,
  ): Promise<T | undefined> {
    if (!(await this.#owns(principal, id))) return undefined
    const held = this.#held.use(id, () => restoreRuntime(this.#runtimeOptions(id)))
    held.users++
    try {
      const runtime = await held.runtime.catch((error: unknown) => {
        this.#held.delete(id)
        throw error
      })
      held.live = runtime
      if (runtime === undefined) this.#held.delete(id)
      if (this.#held.size > this.#options.maxLive) await this.#held.letGo()
      if (runtime === undefined) return undefined
      const result = await act(runtime)
      // It may have ended meanwhile.
      if (this.#held.get(id) === held) this.#used(id, runtime.record)
      return result
    } finally {
      held.users--
    }
  }

  #used(id: SessionId, record: SessionRecord): void {
    this.#census.seen(id, record)
    this.#onlooker.used(id, record)
  }

  /**
   * Whether the session is the principal's. For all who are told no the store is asked once, so that
   * also the time it takes says nothing of what there is.
   */
  async #owns(principal: Principal | undefined, id: SessionId): Promise<boolean> {
    const { ids, store } = this.#options
    const held = this.#held.get(id)
    if (held === undefined && !ids.isMinted(id)) return false
    if (principal === undefined) return true
    const runtime = await held?.runtime.catch(() => undefined)
    if (runtime?.record.principal === principal) return true
    return (await store.load(id, { owner: principal })) !== undefined
  }

  /** Throws if the session has too many streams. */
  #follow(id: SessionId, start: Start, { signal }: FollowRequest): AsyncIterable<StreamEvent> {
    const release = this.#openStreams.reserve(id, start.stream)
    const deafen = this.#ears.listen(id)
    // The signal comes at the end of each stream.
    signal.addEventListener('abort', () => {
      release()
      deafen()
    })
    this.#peers.follows(id, start.stream)
    return this.#followers.follow(this.#options.store, id, start, signal)
  }

  async #hear(id: SessionId, news: News): Promise<void> {
    switch (news.kind) {
      case 'grown':
        this.#followers.wake(news.stream, news.last)
        break
      case 'followed':
        return this.#followers.supersede(news.stream)
      case 'changed':
        return this.#watches.tell(id, news.version)
      case 'ended':
        this.#onlooker.ended(id)
        this.#endStreams(id)
        break
      case 'missed':
        this.#followers.wakeAll(id)
        await this.#lookAgain(id)
    }
    const runtime = await this.#held.get(id)?.runtime.catch(() => undefined)
    if (news.kind === 'grown') runtime?.heard(news.stream, news.last)
    else if (news.kind === 'missed') runtime?.heard()
    else {
      this.#held.delete(id)
      await runtime?.close()
    }
  }

  #runtimeOptions(id: SessionId): RuntimeOptions {
    const followers = this.#followers
    const { meter = unmetered } = this.#options
    return {
      ...this.#options,
      id,
      meter: (measured) => {
        const { kind } = measured
        if (kind === 'call' && measured.method !== 'initialize') this.#onlooker.called(id)
        meter(measured)
      },
      stateOf: (other, principal) => this.stateOf(other, principal),
      changed: (version) => this.#watches.tell(id, version),
      grown: (stream) => followers.wake(stream),
      detach: (stream) => followers.detach(stream),
      hold: (stream) => {
        this.#running.set(stream, this.#ears.listen(id))
        this.#peers.hold({ id, stream })
      },
      letGo: (stream, ended) => {
        this.#running.get(stream)?.()
        this.#running.delete(stream)
        this.#peers.letGo({ id, stream }, ended)
      },
    }
  }

  /** The session is over: there is nothing more to hear of it. */
  #endStreams(id: SessionId): void {
    this.#followers.end(id)
    this.#watches.end(id)
  }

  async #lookAgain(id: SessionId): Promise<void> {
    if (!this.#watches.has(id)) return
    const loaded = await this.#options.store.load(id).catch(() => undefined)
    if (loaded !== undefined) this.#watches.tell(id, loaded.record.version)
  }
}
