import { DurableObject } from 'cloudflare:workers'
import * as z from 'zod'
import { parseConfig } from '../mcp/config.ts'
import { refuse } from '../mcp/http/responses.ts'
import { StatelessServer } from '../mcp/http/stateless.ts'
import { createLog, type Log } from '../mcp/log.ts'
import { systemClock } from '../mcp/session/clock.ts'
import {
  eventId,
  randomText,
  type Principal,
  type SessionId,
  type StreamId,
} from '../mcp/session/ids.ts'
import { refusalOf } from '../mcp/session/refusal.ts'
import { eventsOf, type Answer, type Opened, type Post } from '../mcp/session/router.ts'
import { openSession, restoreRuntime } from '../mcp/session/open-session.ts'
import type { RuntimeOptions, SessionRuntime } from '../mcp/session/runtime.ts'
import { parseState } from '../mcp/session/record.ts'
import type { SessionState } from '../mcp/session/state.ts'
import { locate } from '../mcp/session/streams.ts'
import type { Pack } from '../mcp/session/tool.ts'
import type { Env } from './env.ts'
import { placesOf, type Places } from './places.ts'
import { Reports } from './reports.ts'
import { countSessions, edgeSecrets, newSession } from './session-index.ts'
import { Sockets, upgraded } from './sockets.ts'
import { createSqliteStore, type ObjectStore } from './sqlite-store.ts'
import {
  ATTEMPT,
  DETACHED,
  ENDED,
  LAST_EVENT_ID,
  OPERATOR,
  packEvent,
  PRINCIPAL,
  RECONNECT,
  SOURCE,
  SUPERSEDED,
  WATCH,
} from './wire.ts'

// How far behind the record of a session's last use may be: one row a minute for a session that
// only reads, and none within it.
const TOUCH_MS = 60_000

/**
 * Holds one session. The Worker calls it by RPC, one call a POST, and follows its streams over
 * WebSockets. Evicted, reset or updated at any time: what is not in storage is not the session.
 */
export abstract class SessionObject extends DurableObject<Env> {
  /** What the server offers. */
  protected abstract readonly pack: Pack

  readonly #config
  readonly #store: ObjectStore
  readonly #places: Places
  readonly #sockets: Sockets
  readonly #reports: Reports
  readonly #log: Log
  // A new name after every eviction, so that a restore can be seen in a result.
  readonly #instance = `object-${randomText(3)}`
  readonly #startedAt = Date.now()
  #runtime: Promise<SessionRuntime | undefined> | undefined
  #stateless: StatelessServer | undefined

  // Runs again after every eviction, so nothing here may write.
  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env)
    this.#config = parseConfig(env)
    const { ttlMs, record } = this.#config
    this.#store = createSqliteStore(ctx.storage, {
      ...record,
      ttlMs,
      now: Date.now,
      touchMs: TOUCH_MS,
    })
    this.#places = placesOf(env)
    this.#sockets = new Sockets(ctx)
    const [places, session, instance] = [this.#places, this.#id, this.#instance]
    this.#reports = new Reports({ places, session, instance, ttlMs })
    const log = createLog((line) => console.log(line), instance)
    this.#log = (event) => {
      log(event)
      this.#reports.log(event)
    }
  }

  async open(post: Post): Promise<Opened> {
    const opened = await openSession(post, this.#options())
    if (opened.kind !== 'opened') return opened
    this.#runtime = Promise.resolve(opened.runtime)
    this.#reports.opened()
    this.#report(opened.runtime)
    return { kind: 'opened', id: this.#id, body: opened.body }
  }

  async deliver(post: Post): Promise<Answer> {
    const runtime = await this.#find(post.principal)
    if (runtime === undefined) return { kind: 'gone' }
    const answer = await runtime.deliver(post)
    // The answer to a call that goes on is its stream.
    if (!runtime.isIdle) this.ctx.waitUntil(runtime.idle())
    this.#used(runtime)
    return answer
  }

  async end(principal: Principal): Promise<boolean> {
    const loaded = await this.#store.load(this.#id, { owner: principal })
    return loaded !== undefined && this.endAnyones()
  }

  /** For operators. */
  async endAnyones(): Promise<boolean> {
    const record = this.#store.look()
    if (record === undefined) return false
    const runtime = await this.#runtime
    await this.#store.drop(this.#id)
    await this.#close(runtime, 'deleted')
    this.ctx.waitUntil(this.#reports.end(record))
    return true
  }

  /** The state as JSON, for another session of the same principal. */
  async stateOf(principal: Principal): Promise<string | undefined> {
    const state = await this.#stateOf(principal)
    return state && JSON.stringify(state)
  }

  /** Follows a stream or watches the state, or serves a request that names the session: see `wire.ts`. */
  override async fetch(request: Request): Promise<Response> {
    if (!request.headers.has('upgrade')) return this.#serve(request)
    const { headers } = request
    if (headers.has(OPERATOR)) return this.#store.look() ? this.#sockets.show() : gone()
    const runtime = await this.#find(headers.get(PRINCIPAL) as Principal)
    if (runtime === undefined) return gone()
    const lastEventId = headers.get(LAST_EVENT_ID) ?? undefined
    if (headers.has(WATCH)) return this.#sockets.watch(runtime.record.version, lastEventId)
    try {
      const start = await locate(this.#store, this.#id, runtime.record, lastEventId)
      const { stream } = start
      this.#sockets.mustHaveRoom(stream, this.#config.limits.maxStreamsPerSession)
      const taken = headers.has(RECONNECT) && this.#sockets.followerOf(stream) !== undefined
      if (!taken) this.#sockets.letGo(stream, SUPERSEDED)
      const { client, server } = this.#sockets.accept(stream)
      server.serializeAttachment(start.after)
      if (taken) server.close(SUPERSEDED)
      else if (start.ended) server.close(ENDED)
      else await this.#pump(stream)
      this.#sockets.happened({ kind: 'followed', stream })
      this.#used(runtime)
      return upgraded(client, eventId(start))
    } catch (error) {
      const refused = refusalOf(error, this.#log)
      if (refused.kind === 'gone') return gone()
      return new Response(refused.body, { status: refused.status })
    }
  }

  override async webSocketMessage(): Promise<void> {
    // The Worker has nothing to say: it listens.
  }

  override async webSocketClose(socket: WebSocket, code: number): Promise<void> {
    socket.close(code === 1005 || code === 1006 ? 1000 : code)
  }

  override async alarm(): Promise<void> {
    if (!(await this.#store.tick(this.#sockets.count > 0))) {
      return this.#close(await this.#runtime, 'expired')
    }
    // If the object was reset meanwhile nobody runs what ran in it.
    if (this.#runtime !== undefined || (await this.#store.running(this.#id)).length === 0) return
    const runtime = await this.#restore()
    if (runtime === undefined) return
    this.ctx.waitUntil(runtime.idle())
    this.#report(runtime)
  }

  get #id(): SessionId {
    return this.ctx.id.toString() as SessionId
  }

  async #find(principal: Principal): Promise<SessionRuntime | undefined> {
    const loaded = await this.#store.load(this.#id, { owner: principal })
    return loaded && this.#restore()
  }

  async #stateOf(principal: Principal): Promise<SessionState | undefined> {
    return (await this.#store.load(this.#id, { owner: principal }))?.record.state
  }

  #restore(): Promise<SessionRuntime | undefined> {
    this.#runtime ??= this.#goOn()
    return this.#runtime.catch((error: unknown) => {
      this.#runtime = undefined
      throw error
    })
  }

  /** Only the object runs its calls: those that it finds running were another incarnation's. */
  async #goOn(): Promise<SessionRuntime | undefined> {
    const runtime = await restoreRuntime(this.#options())
    const orphans = await this.#store.running(this.#id)
    for (const stream of orphans) await runtime?.takeOver(stream)
    return runtime
  }

  async #close(runtime: SessionRuntime | undefined, why: 'deleted' | 'expired'): Promise<void> {
    this.#runtime = undefined
    this.#sockets.happened({ kind: 'ended' })
    this.#sockets.closeAll(ENDED)
    await runtime?.close()
    this.#log({ event: 'session_ended', session: this.#id, why })
  }

  /** Sends a stream's new entries to whoever follows it. */
  async #pump(stream: StreamId): Promise<void> {
    const socket = this.#sockets.followerOf(stream)
    if (socket === undefined) return
    const after: number = socket.deserializeAttachment()
    const stored = await this.#store.entries(this.#id, stream, after)
    // Another pump may have come first while this one was reading.
    if (stored === undefined || socket.deserializeAttachment() !== after) return
    socket.serializeAttachment(stored.at + stored.entries.length - 1)
    for (const event of eventsOf(stream, stored)) socket.send(packEvent(event))
    if (stored.entries.at(-1)?.kind === 'end') socket.close(ENDED)
  }

  async #serve(request: Request): Promise<Response> {
    const { headers } = request
    const post: Post = {
      principal: headers.get(PRINCIPAL) as Principal,
      source: headers.get(SOURCE) ?? undefined,
      body: await request.text(),
      idempotencyKey: headers.get('idempotency-key') ?? undefined,
      attempt: attempt.parse(JSON.parse(headers.get(ATTEMPT) ?? '')),
    }
    this.#stateless ??= this.#createStateless()
    return this.#stateless.serve(request, post).catch((error: unknown) => refuse(error, this.#log))
  }

  #createStateless(): StatelessServer {
    const options = this.#options()
    const { sessions, ttlMs, keepAliveMs, limits } = this.#config
    return new StatelessServer({
      ...options,
      ttlMs,
      keepAliveMs,
      limits,
      isForAll: sessions === 'off',
      secrets: edgeSecrets(this.#places),
      holder: {
        open: async (post) => {
          const object = await newSession(this.#places, this.env, post)
          return this.#places.session(object).open(post)
        },
        round: async (id, principal, round) => {
          const runtime = id === this.#id ? await this.#find(principal) : undefined
          const result = await runtime?.round(round)
          if (runtime !== undefined) this.#used(runtime)
          return result
        },
        stateOf: options.stateOf,
        watch: () => Promise.reject(new Error('Cannot watch here: the Worker does')),
      },
    })
  }

  /** The client has used its session. */
  #used(runtime: SessionRuntime): void {
    if (this.#reports.isDue) this.#report(runtime)
  }

  #report({ record, running }: SessionRuntime): void {
    this.ctx.waitUntil(this.#reports.tell(record, { streams: this.#sockets.count, running }))
  }

  #grew(stream: StreamId): void {
    void this.#pump(stream)
    if (!this.#sockets.isShown) return
    this.#sockets.happened({ kind: 'grown', stream, last: this.#store.lastOf(stream) })
  }

  #options(): RuntimeOptions {
    return {
      id: this.#id,
      pack: this.pack,
      store: this.#store,
      instance: this.#instance,
      clock: systemClock,
      log: this.#log,
      meter: this.#reports.meter,
      status: { startedAt: this.#startedAt, countSessions: () => countSessions(this.#places) },
      changed: (version) => this.#sockets.changed(version),
      stateOf: async (id, principal) => {
        if (id === this.#id) return this.#stateOf(principal)
        const found = this.#places.find(id)
        const text = found && (await this.#places.session(found).stateOf(principal))
        return text === undefined ? undefined : parseState(text)
      },
      limits: this.#config.runtime,
      grown: (stream) => this.#grew(stream),
      detach: (stream) => this.#sockets.letGo(stream, DETACHED),
      hold: () => undefined,
      letGo: () => undefined,
    }
  }
}

const attempt = z.object({ sender: z.string(), number: z.number(), settled: z.number() })

function gone(): Response {
  return new Response(null, { status: 404 })
}
