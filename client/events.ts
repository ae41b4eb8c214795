/** What the resilient client does beside answering, for logs and tests. Session ids are shortened. */
export type ClientEvent =
  /** An attempt was in vain; the next one comes after `waitMs`. Counted from 1. */
  | { event: 'attempt_failed'; method: string; attempt: number; waitMs: number; why: string }
  /** The server at `from` is away; requests go to `to`. */
  | { event: 'failed_over'; from: string; to: string }
  /** A stream that broke goes on: behind `lastEventId`, or from its start. */
  | { event: 'stream_resumed'; method: string; lastEventId: string | undefined }
  /** The server had lost the session. `keysCopied` is what `resume_session` has saved. */
  | { event: 'session_replaced'; old: string; new: string; keysCopied: number | undefined }
