/** What an instance knows of the server it is part of. */
export interface Status {
  /** Milliseconds since the epoch. */
  readonly startedAt: number
  /** Sessions that have state, on all instances. */
  countSessions(): Promise<number>
}
