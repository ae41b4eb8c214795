import type { Env } from '../durable-objects/env.ts'
import { objectId, type SessionObject } from '../durable-objects/mcp-session.ts'
import { FOLLOWED_FROM, LAST_EVENT_ID, PRINCIPAL } from '../durable-objects/wire.ts'
import { ServerError } from '../mcp/errors.ts'
import type { Log } from '../mcp/log.ts'
import { sleep, type Clock } from '../mcp/session/clock.ts'
import { randomText, type EventId, type Principal, type SessionId } from '../mcp/session/ids.ts'
import type { Answer, Attempt, Following, FollowRequest, Opened, SessionRouter } from '../mcp/session/router.ts'
import { backoffMs } from './backoff.ts'
import { followObject, type Connection } from './follow.ts'

export interface ObjectRouterOptions {
  readonly sessions: Env['SESSIONS']
  readonly clock: Clock
  readonly log: Log
  readonly random: () => number
}

const MAX_ATTEMPTS = 6
const BACKOFF = { baseMs: 50, capMs: 1000 }

/** Finds each session in its Durable Object: the session id is the object's id. */
export function createObjectRouter(options: ObjectRouterOptions): SessionRouter {
  const { sessions, clock, log, random } = options
  const attempts = createAttempts()

  /** Calls the object of `id`, and again if it was reset: what is called must bear to be repeated. */
  async function call<T>(
    id: DurableObjectId,
    act: (stub: DurableObjectStub<SessionObject>) => Promise<T>,
  ): Promise<T> {
    for (let attempt = 0; ; attempt++) {
      try {
        // A stub is broken for good after an error, so each attempt gets its own.
        return await act(sessions.get(id))
      } catch (error) {
        if (!isRetryable(error)) throw error
        if (attempt + 1 === MAX_ATTEMPTS) {
          throw new ServerError('store_unavailable', 'Cannot reach session: its object does not answer')
        }
        log({ event: 'call_retried', session: id.toString(), attempt, reason: String(error) })
        await sleep(clock, backoffMs(attempt, { ...BACKOFF, random }))
      }
    }
  }

  async function connect(
    id: DurableObjectId,
    principal: Principal,
    lastEventId: string | undefined,
  ): Promise<Connection> {
    const headers = {
      upgrade: 'websocket',
      [PRINCIPAL]: principal,
      ...(lastEventId !== undefined && { [LAST_EVENT_ID]: lastEventId }),
    }
    const response = await call(id, (stub) => stub.fetch('https://object/', { headers }))
    const { webSocket: socket, status } = response
    if (socket !== null) {
      return { kind: 'connected', socket, after: response.headers.get(FOLLOWED_FROM) as EventId }
    }
    const body = await response.text()
    return status === 404 ? { kind: 'gone' } : { kind: 'refused', status, body }
  }

  return {
    open: (post) => call<Opened>(sessions.newUniqueId(), async (stub) => stub.open(post)),

    async deliver(id, post) {
      const object = objectId(sessions, id)
      if (object === undefined) return { kind: 'gone' }
      return attempts.run((attempt) =>
        call<Answer>(object, async (stub) => stub.deliver({ ...post, attempt })),
      )
    },

    async follow(id: SessionId, principal: Principal, request: FollowRequest): Promise<Following> {
      const object = objectId(sessions, id)
      if (object === undefined) return { kind: 'gone' }
      const reconnect = (lastEventId: string | undefined) => connect(object, principal, lastEventId)
      const connection = await reconnect(request.lastEventId)
      if (connection.kind !== 'connected') return connection
      const reopened = (attempt: number) => log({ event: 'stream_reopened', session: id, attempt })
      const events = followObject(connection, { reconnect, reopened, signal: request.signal })
      return { kind: 'following', after: connection.after, events }
    },

    async end(id, principal) {
      const object = objectId(sessions, id)
      return object !== undefined && call<boolean>(object, async (stub) => stub.end(principal))
    },
  }
}

/**
 * Names the POSTs of this isolate. A key per POST lets an object tell a repeated one; the lowest
 * number still open lets it forget the rest.
 */
function createAttempts(): { run<T>(act: (attempt: Attempt) => Promise<T>): Promise<T> } {
  const open = new Set<number>()
  let sender: string | undefined
  let last = 0
  return {
    async run(act) {
      // Workers have no source of chance before their first request.
      sender ??= randomText(9)
      const number = ++last
      open.add(number)
      const [settled = number] = open
      try {
        return await act({ sender, number, settled })
      } finally {
        open.delete(number)
      }
    },
  }
}

function isRetryable(error: unknown): boolean {
  if (typeof error !== 'object' || error === null) return false
  const { retryable, overloaded, durableObjectReset } = error as Record<string, unknown>
  return overloaded !== true && (retryable === true || durableObjectReset === true)
}
