/**
 * How the Worker follows a stream of an object: a WebSocket that the object may sleep behind.
 * Worker and object may be of different releases for a while, so this only ever grows.
 */

// Request headers of the upgrade.
export const PRINCIPAL = 'holdfast-principal'
/** Whose share of sessions a new one is of. */
export const SOURCE = 'holdfast-source'
export const LAST_EVENT_ID = 'last-event-id'
/** Set by a Worker that comes back by itself: a client that came in between goes first. */
export const RECONNECT = 'holdfast-reconnect'
/** Set by a Worker that only wants to know when the session's state changes. */
export const WATCH = 'holdfast-watch'
/** Set by a Worker that shows an operator what happens in the session, whoever's it is. */
export const OPERATOR = 'holdfast-operator'
/** The Worker's name for the POST that it forwards. */
export const ATTEMPT = 'holdfast-attempt'
/** Response header of the upgrade: the event id behind which the stream is followed. */
export const FOLLOWED_FROM = 'holdfast-followed-from'

// Why the object closes the socket. Anything else is no end, and the Worker comes back.
/** The stream is complete, or its session is over. */
export const ENDED = 4000
/** Another request follows the stream now. */
export const SUPERSEDED = 4001
/** The client is to come back for the rest. */
export const DETACHED = 4002

/** One event as one message: its id, a line feed, its JSON. */
export function packEvent({ id, data }: { readonly id: string; readonly data: string }): string {
  return `${id}\n${data}`
}

export function unpackEvent(message: string): { id: string; data: string } {
  const at = message.indexOf('\n')
  return { id: message.slice(0, at), data: message.slice(at + 1) }
}
