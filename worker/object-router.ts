import type { Env } from '../durable-objects/env.ts'
import type { SessionObject } from '../durable-objects/mcp-session.ts'
import type { Places } from '../durable-objects/places.ts'
import { newSession } from '../durable-objects/session-index.ts'
import {
  ATTEMPT,
  FOLLOWED_FROM,
  LAST_EVENT_ID,
  OPERATOR,
  PRINCIPAL,
  RECONNECT,
  SOURCE,
  WATCH,
} from '../durable-objects/wire.ts'
import type { Limits } from '../mcp/limits.ts'
import type { Log } from '../mcp/log.ts'
import type { Happening } from '../mcp/operator.ts'
import { sleep, type Clock } from '../mcp/session/clock.ts'
import type { EventId, Principal, SessionId } from '../mcp/session/ids.ts'
import type {
  Answer,
  Following,
  FollowRequest,
  Opened,
  Post,
  SessionHolder,
  SessionRouter,
  StreamEvent,
  Watch,
} from '../mcp/session/router.ts'
import { parseState } from '../mcp/session/record.ts'
import type { SessionState } from '../mcp/session/state.ts'
import { Attempts } from './attempts.ts'
import { followObject, type Connection } from './follow.ts'
import { backoffMs, retryObject } from './retry.ts'

export interface ObjectRouterOptions {
  readonly env: Env
  readonly places: Places
  readonly limits: Pick<Limits, 'maxBufferedBytes'>
  readonly clock: Clock
  readonly log: Log
  readonly random: () => number
}

type Stub = DurableObjectStub<SessionObject>

/** Finds each session in its Durable Object: the session id is the object's id. */
export class ObjectRouter implements SessionRouter, SessionHolder {
  readonly #options: ObjectRouterOptions
  readonly #places: Places
  readonly #attempts = new Attempts()

  constructor(options: ObjectRouterOptions) {
    this.#options = options
    this.#places = options.places
  }

  async open(post: Post): Promise<Opened> {
    const object = await newSession(this.#places, this.#options.env, post)
    return this.#call<Opened>(object, async (stub) => stub.open(post))
  }

  async deliver(id: SessionId, post: Post): Promise<Answer> {
    const object = this.#places.find(id)
    if (object === undefined) return { kind: 'gone' }
    return this.#attempts.run((attempt) =>
      this.#call<Answer>(object, async (stub) => stub.deliver({ ...post, attempt })),
    )
  }

  async follow(id: SessionId, principal: Principal, request: FollowRequest): Promise<Following> {
    const object = this.#places.find(id)
    if (object === undefined) return { kind: 'gone' }
    const headers = new Headers({ upgrade: 'websocket', [PRINCIPAL]: principal })
    const connection = await this.#connect(object, headers, request.lastEventId)
    if (connection.kind !== 'connected') return connection
    const { signal } = request
    const events = this.#followed(object, headers, { connection, signal })
    return { kind: 'following', after: connection.after, events }
  }

  /** A request of the stateless revision, to the object that it names. */
  forward(id: SessionId, request: Request, post: Post): Promise<Response> | undefined {
    const object = this.#places.find(id)
    if (object === undefined) return undefined
    const headers = new Headers(request.headers)
    headers.set(PRINCIPAL, post.principal)
    headers.set(SOURCE, post.source ?? post.principal)
    headers.delete('upgrade')
    const { body } = post
    return this.#attempts.run((attempt) => {
      headers.set(ATTEMPT, JSON.stringify(attempt))
      const init = { method: 'POST', headers, body, signal: request.signal }
      return this.#call(object, (stub) => stub.fetch('https://object/mcp', init))
    }, request.signal)
  }

  /** Whatever names a session that there could be has been forwarded. */
  round(): Promise<undefined> {
    return Promise.resolve(undefined)
  }

  async stateOf(id: string, principal: Principal): Promise<SessionState | undefined> {
    const object = this.#places.find(id)
    const text = object && (await this.#call(object, async (stub) => stub.stateOf(principal)))
    return text === undefined ? undefined : parseState(text)
  }

  async watch(id: SessionId, { principal, signal, changed, lost }: Watch): Promise<void> {
    const object = this.#places.find(id)
    if (object === undefined) return
    const headers = new Headers({ upgrade: 'websocket', [PRINCIPAL]: principal, [WATCH]: 'true' })
    const connection = await this.#connect(object, headers, undefined)
    if (connection.kind !== 'connected') return lost()
    const told = this.#followed(object, headers, { connection, signal })
    void (async () => {
      for await (const _ of told) changed()
    })().then(lost, lost)
  }

  async end(id: SessionId, principal: Principal): Promise<boolean> {
    const object = this.#places.find(id)
    if (object === undefined) return false
    return this.#call<boolean>(object, async (stub) => stub.end(principal))
  }

  /** For operators: ends the session, whoever's it is. */
  async endAnyones(id: SessionId): Promise<boolean> {
    const object = this.#places.find(id)
    if (object === undefined) return false
    return this.#call<boolean>(object, async (stub) => stub.endAnyones())
  }

  /** For operators: what happens in the session from now on; `undefined` if there is none. */
  async show(id: SessionId, signal: AbortSignal): Promise<AsyncIterable<Happening> | undefined> {
    const object = this.#places.find(id)
    if (object === undefined) return undefined
    const headers = new Headers({ upgrade: 'websocket', [OPERATOR]: 'true' })
    const connection = await this.#connect(object, headers, undefined)
    if (connection.kind !== 'connected') return undefined
    return happenings(this.#followed(object, headers, { connection, signal }))
  }

  #followed(
    object: DurableObjectId,
    headers: Headers,
    { connection, signal }: { connection: Connection & { kind: 'connected' }; signal: AbortSignal },
  ): AsyncGenerator<StreamEvent> {
    const { clock, random, log } = this.#options
    return followObject(connection, {
      signal,
      maxWaiting: this.#options.limits.maxBufferedBytes,
      reopened: (attempt) => log({ event: 'stream_reopened', session: object.toString(), attempt }),
      reconnect: (after) => {
        headers.set(RECONNECT, 'true')
        return this.#connect(object, headers, after)
      },
      pause: (attempt) => sleep(clock, backoffMs(attempt, random)),
    })
  }

  async #connect(
    object: DurableObjectId,
    headers: Headers,
    after: string | undefined,
  ): Promise<Connection> {
    if (after !== undefined) headers.set(LAST_EVENT_ID, after)
    const response = await this.#call(object, (stub) => stub.fetch('https://object/', { headers }))
    const { webSocket: socket, status } = response
    if (socket !== null) {
      return { kind: 'connected', socket, after: response.headers.get(FOLLOWED_FROM) as EventId }
    }
    return status === 404
      ? { kind: 'gone' }
      : { kind: 'refused', status, body: await response.text() }
  }

  #call<T>(object: DurableObjectId, act: (stub: Stub) => Promise<T>): Promise<T> {
    const { clock, random, log } = this.#options
    return retryObject(() => act(this.#places.session(object)), {
      clock,
      random,
      retried: (attempt, reason) =>
        log({ event: 'call_retried', session: object.toString(), attempt, reason }),
    })
  }
}

async function* happenings(events: AsyncIterable<StreamEvent>): AsyncGenerator<Happening> {
  for await (const event of events) {
    if (event.kind === 'event') yield JSON.parse(event.data) as Happening
  }
}
