import type { Env } from '../durable-objects/env.ts'
import { objectId, type SessionObject } from '../durable-objects/mcp-session.ts'
import { FOLLOWED_FROM, LAST_EVENT_ID, PRINCIPAL, RECONNECT } from '../durable-objects/wire.ts'
import type { Log } from '../mcp/log.ts'
import { sleep, type Clock } from '../mcp/session/clock.ts'
import type { EventId, Principal, SessionId } from '../mcp/session/ids.ts'
import type {
  Answer,
  Following,
  FollowRequest,
  Opened,
  Post,
  SessionRouter,
} from '../mcp/session/router.ts'
import { Attempts } from './attempts.ts'
import { followObject, type Connection } from './follow.ts'
import { backoffMs, retryObject } from './retry.ts'

export interface ObjectRouterOptions {
  readonly sessions: Env['SESSIONS']
  readonly clock: Clock
  readonly log: Log
  readonly random: () => number
}

type Stub = DurableObjectStub<SessionObject>

/** Finds each session in its Durable Object: the session id is the object's id. */
export class ObjectRouter implements SessionRouter {
  readonly #options: ObjectRouterOptions
  readonly #attempts = new Attempts()

  constructor(options: ObjectRouterOptions) {
    this.#options = options
  }

  open(post: Post): Promise<Opened> {
    const object = this.#options.sessions.newUniqueId()
    return this.#call<Opened>(object, async (stub) => stub.open(post))
  }

  async deliver(id: SessionId, post: Post): Promise<Answer> {
    const object = objectId(this.#options.sessions, id)
    if (object === undefined) return { kind: 'gone' }
    return this.#attempts.run((attempt) =>
      this.#call<Answer>(object, async (stub) => stub.deliver({ ...post, attempt })),
    )
  }

  async follow(id: SessionId, principal: Principal, request: FollowRequest): Promise<Following> {
    const object = objectId(this.#options.sessions, id)
    if (object === undefined) return { kind: 'gone' }
    const headers = new Headers({ upgrade: 'websocket', [PRINCIPAL]: principal })
    const connection = await this.#connect(object, headers, request.lastEventId)
    if (connection.kind !== 'connected') return connection
    const reopened = (attempt: number): void =>
      this.#options.log({ event: 'stream_reopened', session: id, attempt })
    const reconnect = (after: EventId): Promise<Connection> => {
      headers.set(RECONNECT, 'true')
      return this.#connect(object, headers, after)
    }
    const { clock, random } = this.#options
    const pause = (attempt: number): Promise<void> => sleep(clock, backoffMs(attempt, random))
    const { signal } = request
    const events = followObject(connection, { reconnect, reopened, pause, signal })
    return { kind: 'following', after: connection.after, events }
  }

  async end(id: SessionId, principal: Principal): Promise<boolean> {
    const object = objectId(this.#options.sessions, id)
    if (object === undefined) return false
    return this.#call<boolean>(object, async (stub) => stub.end(principal))
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
    const { sessions, clock, random, log } = this.#options
    return retryObject(() => act(sessions.get(object)), {
      clock,
      random,
      retried: (attempt, reason) =>
        log({ event: 'call_retried', session: object.toString(), attempt, reason }),
    })
  }
}
