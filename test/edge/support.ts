import { evictDurableObject, runInDurableObject } from 'cloudflare:test'
import { env, exports } from 'cloudflare:workers'
import type { Env } from '../../durable-objects/env.ts'
import { placesOf } from '../../durable-objects/places.ts'
import type { SessionObject } from '../../durable-objects/mcp-session.ts'
import type { Entry } from '../../mcp/session/store.ts'
import { BASE, POST_HEADERS, type Fetch } from '../support/mcp.ts'

export const bindings = env as unknown as Env
export const { SESSION_OBJECTS } = bindings
export const places = placesOf(bindings)

// An object's log lines stay here: the test runner waits for each that it was sent, and for ever if
// the object was reset on the way.
const { log } = console
console.log = (...parts: unknown[]): void => {
  if (!String(parts[0]).includes('"event"')) log(...parts)
}

/** The Worker, as the network calls it. */
export const edgeFetch: Fetch = (request) =>
  (exports as unknown as { default: { fetch: Fetch } }).default.fetch(request)

export function objectOf(session: string): DurableObjectStub<SessionObject> {
  return SESSION_OBJECTS.get(SESSION_OBJECTS.idFromString(session))
}

export function evict(session: string): Promise<void> {
  return evictDurableObject(objectOf(session))
}

export function evictClosing(session: string): Promise<void> {
  return evictDurableObject(objectOf(session), { webSockets: 'close' })
}

/** What a crash and a deploy do: everything in memory is lost at once. */
export async function reset(session: string): Promise<void> {
  const abort = (_object: unknown, state: DurableObjectState): void => state.abort('test')
  await runInDurableObject(objectOf(session), abort).catch(() => undefined)
}

/** The keys of what a session's object has stored. */
export async function rowsOf(session: string): Promise<string[]> {
  return runInDurableObject(objectOf(session), (_object, { storage }) =>
    [...storage.kv.list()].map(([key]) => key),
  )
}

/** Opens the standalone stream, or goes on with any behind an event. */
export function listen(session: string, lastEventId?: string): Promise<Response> {
  const headers = new Headers({ accept: 'text/event-stream', host: POST_HEADERS.host })
  headers.set('mcp-session-id', session)
  if (lastEventId !== undefined) headers.set('last-event-id', lastEventId)
  return edgeFetch(new Request(`${BASE}/mcp`, { headers }))
}

/** All entries that a session's object has stored, by their streams; nothing goes on for it. */
export function streamsOf(session: string): Promise<Record<string, Entry[]>> {
  return runInDurableObject(objectOf(session), (_object, { storage }) => {
    const streams: Record<string, Entry[]> = {}
    for (const [key, text] of storage.kv.list<string>({ prefix: 'stream/' })) {
      const [, stream = ''] = key.split('/')
      const { entries } = JSON.parse(text) as { entries: Entry[] }
      streams[stream] = [...(streams[stream] ?? []), ...entries]
    }
    return streams
  })
}
