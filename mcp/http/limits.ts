/** What a request and a connection may cost. */
export interface HttpLimits {
  readonly maxBodyBytes: number
  /** A stream whose reader is this far behind is cut; it can be resumed. */
  readonly maxBufferedBytes: number
}

export const HTTP_LIMITS: HttpLimits = {
  maxBodyBytes: 1024 * 1024,
  maxBufferedBytes: 1024 * 1024,
}
