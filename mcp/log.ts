/**
 * One line of JSON per event. Session ids are secret and principals nobody's business, so they are
 * shortened here and nowhere else.
 */
export type Log = (event: LogEvent) => void

export type LogEvent =
  /** It can't start yet. */
  | { event: 'store_awaited'; why: string }
  | { event: 'started'; auth: 'bearer' | 'none' }
  | {
      event: 'session_opened'
      session: string
      client: string
      principal: string
      from?: string | undefined
    }
  /** The state of a session was given to another one of the same principal. */
  | { event: 'session_read'; session: string; by: string }
  | { event: 'session_restored'; session: string; version: number; tookMs: number }
  | { event: 'session_ended'; session: string; why: 'deleted' | 'expired' }
  | { event: 'call_taken_over'; session: string; stream: string; tookMs: number }
  | { event: 'call_retried'; session: string; attempt: number; reason: string }
  | { event: 'commit_conflict'; session: string; expected: number }
  | { event: 'stream_reopened'; session: string; attempt: number }
  | { event: 'sdk_error'; session: string; message: string }
  | ({ event: 'operator_ended_session'; name: string } & OperatorSaid)
  | ({ event: 'operator_drained' | 'operator_undrained'; target: string } & OperatorSaid)
  | { event: 'request_failed'; message: string }
  | { event: 'request_refused' | 'limit_hit'; why: string; from?: string | undefined }

/** Who it was. */
interface OperatorSaid {
  principal: string
  from?: string | undefined
}

export function createLog(
  write: (line: string) => void,
  instance: string,
  now: () => number = Date.now,
): Log {
  return (event) => {
    const at = new Date(now()).toISOString()
    write(JSON.stringify({ at, instance, ...event }, shortened))
  }
}

/** How many characters are shown of what is nobody's business. */
const SHOWN = new Map([
  ['session', 8],
  ['by', 8],
  ['principal', 12],
])

function shortened(name: string, value: unknown): unknown {
  return typeof value === 'string' ? value.slice(0, SHOWN.get(name)) : value
}
