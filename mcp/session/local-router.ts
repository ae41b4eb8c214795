import { eventId, type Principal, type SessionId } from './ids.ts'
import { refusalOf } from './refusal.ts'
import type { Answer, Following, FollowRequest, Opened, Post, SessionRouter } from './router.ts'
import { openSession, restoreRuntime, type RuntimeOptions, type SessionRuntime } from './runtime.ts'
import type { SessionState } from './state.ts'
import { Followers, locate } from './streams.ts'

export interface LocalRouterOptions extends Omit<
  RuntimeOptions,
  'id' | 'grown' | 'detach' | 'stateOf'
> {
  readonly ids: {
    mint(): SessionId
    /** Whether `id` is one of ours; no store is asked about any other. */
    isMinted(id: string): boolean
  }
  /** Sessions held in memory; the idle ones that were unused the longest are let go past it. */
  readonly maxLive: number
}

/** Holds sessions in this process, and restores from the store those that it does not hold yet. */
export class LocalRouter implements SessionRouter {
  readonly #options: LocalRouterOptions
  /** In the order of their last use. */
  readonly #held = new Map<SessionId, Promise<SessionRuntime | undefined>>()
  readonly #followers = new Followers()

  constructor(options: LocalRouterOptions) {
    this.#options = options
  }

  async open(post: Post): Promise<Opened> {
    const id = this.#options.ids.mint()
    const opened = await openSession(post, this.#runtimeOptions(id))
    if (opened.kind !== 'opened') return opened
    this.#held.set(id, Promise.resolve(opened.runtime))
    await this.#letGo()
    return { kind: 'opened', id, body: opened.body }
  }

  async deliver(id: SessionId, post: Post): Promise<Answer> {
    const runtime = await this.#find(id, post.principal)
    const answer = (await runtime?.deliver(post)) ?? { kind: 'gone' }
    if (answer.kind === 'gone' && runtime !== undefined) this.#held.delete(id)
    return answer
  }

  async follow(id: SessionId, principal: Principal, request: FollowRequest): Promise<Following> {
    const { store, log } = this.#options
    const runtime = await this.#find(id, principal)
    const record = runtime && (await store.load(id))?.record
    if (runtime === undefined || record === undefined) return { kind: 'gone' }
    try {
      const start = await locate(store, id, record, request.lastEventId)
      await runtime.closeOrphan(start.stream)
      const events = this.#followers.follow(store, id, start, request.signal)
      return { kind: 'following', after: eventId(start), events }
    } catch (error) {
      return refusalOf(error, log)
    }
  }

  async end(id: SessionId, principal: Principal): Promise<boolean> {
    const runtime = await this.#find(id, principal)
    if (runtime === undefined) return false
    this.#held.delete(id)
    const existed = await this.#options.store.drop(id)
    this.#followers.end(id)
    await runtime.close()
    return existed
  }

  /** Resolves when no call runs here. */
  async idle(): Promise<void> {
    const idle = [...this.#held.values()].map(async (held) => (await held)?.idle())
    await Promise.all(idle)
  }

  /** Ends all streams that are followed here; their clients resume them elsewhere. */
  detachAll(): void {
    this.#followers.endAll()
  }

  async #find(id: SessionId, principal: Principal): Promise<SessionRuntime | undefined> {
    if (!this.#options.ids.isMinted(id)) return undefined
    const found = this.#held.get(id) ?? restoreRuntime(this.#runtimeOptions(id))
    this.#held.delete(id)
    this.#held.set(id, found)
    try {
      const runtime = await found
      if (runtime === undefined) this.#held.delete(id)
      await this.#letGo()
      return runtime?.record.principal === principal ? runtime : undefined
    } catch (error) {
      this.#held.delete(id)
      throw error
    }
  }

  /** Lets go of idle sessions that are too many; one that is busy is kept, whatever its age. */
  async #letGo(): Promise<void> {
    for (const [id, held] of this.#held) {
      if (this.#held.size <= this.#options.maxLive) return
      const runtime = await held
      if (runtime?.isIdle === false) continue
      this.#held.delete(id)
      await runtime?.close()
    }
  }

  #runtimeOptions(id: SessionId): RuntimeOptions {
    const followers = this.#followers
    return {
      ...this.#options,
      id,
      stateOf: (other, principal) => this.#stateOf(other as SessionId, principal),
      grown: (stream) => followers.wake(stream),
      detach: (stream) => followers.detach(stream),
    }
  }

  async #stateOf(id: SessionId, principal: Principal): Promise<SessionState | undefined> {
    if (!this.#options.ids.isMinted(id)) return undefined
    const record = (await this.#options.store.load(id))?.record
    return record?.principal === principal ? record.state : undefined
  }
}
