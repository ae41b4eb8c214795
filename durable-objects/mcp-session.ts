import { DurableObject } from 'cloudflare:workers'
import * as z from 'zod'
import { parseConfig } from '../mcp/config.ts'
import { tooManyStreams } from '../mcp/errors.ts'
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
import type { SessionRecord } from '../mcp/session/store.ts'
import { locate } from '../mcp/session/streams.ts'
import type { Pack } from '../mcp/session/tool.ts'
import type { Env } from './env.ts'
import { admitSession, countSessions, edgeSecrets, reportSession } from './session-index.ts'
import { createSqliteStore, type ObjectStore } from './sqlite-store.ts'
import {
  ATTEMPT,
  DETACHED,
  ENDED,
  FOLLOWED_FROM,
  LAST_EVENT_ID,
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
/** The tag of sockets that are told of changes of the state; no stream has this name. */
const STATE = 'state'

/**
 * Holds one session. The Worker calls it by RPC, one call a POST, and follows its streams over
 * WebSockets. Evicted, reset or updated at any time: what is not in storage is not the session.
 */
export abstract class SessionObject extends DurableObject<Env> {
  /** What the server offers. */
  protected abstract readonly pack: Pack

  readonly #config
  readonly #store: ObjectStore
  readonly #log: Log
  // A new name after every eviction, so that a restore can be seen in a result.
  readonly #instance = `object-${randomText(3)}`
  readonly #startedAt = Date.now()
  #runtime: Promise<SessionRuntime | undefined> | undefined
  #stateless: StatelessServer | undefined
  #reportedAt = 0

  // Runs again after every eviction, so nothing here may write.
  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env)
    this.#config = parseConfig(env)
    const { ttlMs, record } = this.#config
    this.#log = createLog((line) => console.log(line), this.#instance)
    this.#store = createSqliteStore(ctx.storage, {
      ...record,
      ttlMs,
      now: Date.now,
      touchMs: TOUCH_MS,
    })
  }

  async open(post: Post): Promise<Opened> {
    const opened = await openSession(post, this.#options())
    if (opened.kind !== 'opened') return opened
    this.#runtime = Promise.resolve(opened.runtime)
    return { kind: 'opened', id: this.#id, body: opened.body }
  }

  async deliver(post: Post): Promise<Answer> {
    const runtime = await this.#find(post.principal)
    if (runtime === undefined) return { kind: 'gone' }
    const answer = await runtime.deliver(post)
    // The answer to a call that goes on is its stream.
    if (!runtime.isIdle) this.ctx.waitUntil(runtime.idle())
    if (this.#isReportDue(runtime)) this.ctx.waitUntil(this.#report(runtime))
    return answer
  }

  async end(principal: Principal): Promise<boolean> {
    const runtime = await this.#find(principal)
    if (runtime === undefined) return false
    await this.#store.drop(this.#id)
    await this.#close(runtime, 'deleted')
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
    const runtime = await this.#find(request.headers.get(PRINCIPAL) as Principal)
    if (runtime === undefined) return new Response(null, { status: 404 })
    const lastEventId = request.headers.get(LAST_EVENT_ID) ?? undefined
    if (request.headers.has(WATCH)) return this.#watch(runtime, lastEventId)
    try {
      const start = await locate(this.#store, this.#id, runtime.record, lastEventId)
      this.#mustHaveRoom(start.stream)
      const { 0: client, 1: server } = new WebSocketPair()
      const taken = request.headers.has(RECONNECT) && this.#follower(start.stream) !== undefined
      if (!taken) this.#let(start.stream, SUPERSEDED)
      this.ctx.acceptWebSocket(server, [start.stream])
      server.serializeAttachment(start.after)
      if (taken) server.close(SUPERSEDED)
      else if (start.ended) server.close(ENDED)
      else await this.#pump(start.stream)
      const headers = { [FOLLOWED_FROM]: eventId(start) }
      return new Response(null, { status: 101, webSocket: client, headers })
    } catch (error) {
      const refused = refusalOf(error, this.#log)
      if (refused.kind === 'gone') return new Response(null, { status: 404 })
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
    if (!(await this.#store.tick(this.ctx.getWebSockets().length > 0))) {
      return this.#close(await this.#runtime, 'expired')
    }
    // If the object was reset meanwhile nobody runs what ran in it.
    if (this.#runtime !== undefined || (await this.#store.running(this.#id)).length === 0) return
    const runtime = await this.#restore()
    if (runtime !== undefined) this.ctx.waitUntil(runtime.idle())
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
    for (const socket of this.ctx.getWebSockets()) socket.close(ENDED)
    await runtime?.close()
    this.#log({ event: 'session_ended', session: this.#id, why })
    if (runtime !== undefined) await this.#tellIndex(runtime, 0)
  }

  /** Sends a stream's new entries to whoever follows it. */
  async #pump(stream: StreamId): Promise<void> {
    const socket = this.#follower(stream)
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
      secrets: edgeSecrets(this.env.INDEX),
      holder: {
        open: async (post) => {
          const object = await newSession(this.env, post)
          return this.env.SESSION_OBJECTS.get(object).open(post)
        },
        round: async (id, principal, round) => {
          const runtime = id === this.#id ? await this.#find(principal) : undefined
          const result = await runtime?.round(round)
          if (runtime && this.#isReportDue(runtime)) this.ctx.waitUntil(this.#report(runtime))
          return result
        },
        stateOf: options.stateOf,
        watch: () => Promise.reject(new Error('Cannot watch here: the Worker does')),
      },
    })
  }

  /** Tells of the state's changes, at once if there was one behind `last`. */
  #watch({ record }: SessionRuntime, last: string | undefined): Response {
    const { 0: client, 1: server } = new WebSocketPair()
    this.ctx.acceptWebSocket(server, [STATE])
    const now = versionEvent(record)
    if (last !== undefined && last !== now.id) server.send(packEvent(now))
    return new Response(null, {
      status: 101,
      webSocket: client,
      headers: { [FOLLOWED_FROM]: now.id },
    })
  }

  async #tell(): Promise<void> {
    const watchers = this.ctx.getWebSockets(STATE)
    if (watchers.length === 0) return
    const runtime = await this.#runtime
    if (runtime === undefined) return
    for (const socket of watchers) socket.send(packEvent(versionEvent(runtime.record)))
  }

  #follower(stream: StreamId): WebSocket | undefined {
    return this.ctx.getWebSockets(stream).find(({ readyState }) => readyState === WebSocket.OPEN)
  }

  /** Whoever follows a stream takes the place of who did. */
  #mustHaveRoom(stream: StreamId): void {
    const followed = this.ctx.getWebSockets().length - this.ctx.getWebSockets(stream).length
    if (followed >= this.#config.limits.maxStreamsPerSession) throw tooManyStreams()
  }

  #let(stream: StreamId, code: number): void {
    this.#follower(stream)?.close(code)
  }

  #isReportDue({ record }: SessionRuntime): boolean {
    const isCounted = record.version > 0 || record.source !== undefined
    return isCounted && Date.now() - this.#reportedAt >= TOUCH_MS
  }

  /** Tells the index that this session lives. */
  async #report(runtime: SessionRuntime): Promise<void> {
    this.#reportedAt = Date.now()
    // It only counts: what is lost here is told again in a minute.
    const told = this.#tellIndex(runtime, this.#reportedAt + this.#config.ttlMs + TOUCH_MS)
    await told.catch(() => undefined)
  }

  #tellIndex({ record: { source, version } }: SessionRuntime, expiresAt: number): Promise<void> {
    return reportSession(this.env.INDEX, { id: this.#id, source, version }, expiresAt)
  }

  #options(): RuntimeOptions {
    return {
      id: this.#id,
      pack: this.pack,
      store: this.#store,
      instance: this.#instance,
      clock: systemClock,
      log: this.#log,
      status: { startedAt: this.#startedAt, countSessions: () => countSessions(this.env.INDEX) },
      changed: () => void this.#tell(),
      stateOf: async (id, principal) => {
        if (id === this.#id) return this.#stateOf(principal)
        const found = objectId(this.env.SESSION_OBJECTS, id)
        const text = found && (await this.env.SESSION_OBJECTS.get(found).stateOf(principal))
        return text === undefined ? undefined : parseState(text)
      },
      limits: this.#config.runtime,
      grown: (stream) => void this.#pump(stream),
      detach: (stream) => this.#let(stream, DETACHED),
      hold: () => undefined,
      letGo: () => undefined,
    }
  }
}

const attempt = z.object({ sender: z.string(), number: z.number(), settled: z.number() })

function versionEvent({ version }: SessionRecord): { readonly id: string; readonly data: string } {
  return { id: `${STATE}.${version}`, data: '' }
}

/** The object of a session that is about to begin. Throws `too_many_sessions`. */
export async function newSession(env: Env, post: Post): Promise<DurableObjectId> {
  const object = env.SESSION_OBJECTS.newUniqueId()
  await admitSession(env, object.toString(), post.source ?? post.principal)
  return object
}

/** The object of session `id`; `undefined`, with nothing woken, for an id that was not minted. */
export function objectId(
  sessions: Env['SESSION_OBJECTS'],
  id: string,
): DurableObjectId | undefined {
  try {
    const object = sessions.idFromString(id)
    // It takes capitals as well. A session has one name.
    return object.toString() === id ? object : undefined
  } catch {
    return undefined
  }
}
