/**
 * The names of things that clients hand back to us. All are branded: only the checkers below may
 * make them from text.
 */
declare const brand: unique symbol

/** The checked value of `mcp-session-id`; the router that minted it knows its form. */
export type SessionId = string & { readonly [brand]: 'SessionId' }
/** The authenticated caller a session belongs to: compared on every request, never shown. */
export type Principal = string & { readonly [brand]: 'Principal' }
/** Names one stream for ever: 72 random bits, so an event id of another session finds nothing. */
export type StreamId = string & { readonly [brand]: 'StreamId' }
/** A place in a stream: `<stream id>.<sequence number>`. */
export type EventId = string & { readonly [brand]: 'EventId' }

const STREAM_ID = /^[A-Za-z0-9_-]{12}$/
const EVENT_ID = /^([A-Za-z0-9_-]{12})\.(0|[1-9][0-9]{0,9})$/

export interface Position {
  readonly stream: StreamId
  /** The sequence number of the last entry that was seen. */
  readonly after: number
}

export function createStreamId(): StreamId {
  return randomText(9) as StreamId
}

export function parseStreamId(text: string): StreamId | undefined {
  return STREAM_ID.test(text) ? (text as StreamId) : undefined
}

export function eventId({ stream, after }: Position): EventId {
  return `${stream}.${after}` as EventId
}

export function parseEventId(text: string): Position | undefined {
  const [, stream, sequence] = EVENT_ID.exec(text) ?? []
  if (stream === undefined || sequence === undefined) return undefined
  return { stream: stream as StreamId, after: Number(sequence) }
}

/** Random bytes from the platform's secure source, as base64url. */
export function randomText(bytes: number): string {
  return base64url(crypto.getRandomValues(new Uint8Array(bytes)))
}

export function base64url(bytes: Uint8Array): string {
  return btoa(String.fromCharCode(...bytes))
    .replaceAll('+', '-')
    .replaceAll('/', '_')
    .replaceAll('=', '')
}
