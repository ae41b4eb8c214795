/** One line of JSON per event. Session ids are secret, so they are shortened here and nowhere else. */
export type Log = (event: LogEvent) => void

export type LogEvent =
  | { event: 'session_opened'; session: string; client: string }
  | { event: 'session_restored'; session: string; version: number; tookMs: number }
  | { event: 'session_ended'; session: string; why: 'deleted' | 'expired' }
  | { event: 'call_taken_over'; session: string; stream: string }
  | { event: 'call_retried'; session: string; attempt: number; reason: string }
  | { event: 'commit_conflict'; session: string; expected: number }
  | { event: 'stream_reopened'; session: string; attempt: number }
  | { event: 'sdk_error'; session: string; message: string }
  | { event: 'request_failed'; message: string }
  | { event: 'request_refused'; why: string }

export function createLog(write: (line: string) => void, instance: string): Log {
  return (event) => {
    const short = 'session' in event ? { session: event.session.slice(0, 8) } : {}
    write(JSON.stringify({ instance, ...event, ...short }))
  }
}
