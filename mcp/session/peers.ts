import type { SessionId, StreamId } from './ids.ts'

/**
 * What the processes that share a store have to do with each other. Nothing here is needed for what
 * is stored to be right: news makes it seen at once, leases make it finished soon.
 */
export interface Peers {
  /**
   * Has `hear` told what other processes do with session `id`, until the returned function is
   * called. News can be lost with a connection; `missed` says so once there is one again.
   */
  listen(id: SessionId, hear: (news: News) => void): () => void
  /** Says that `stream` is followed here now. */
  follows(id: SessionId, stream: StreamId): void

  /** Keeps a lease on a call: it runs here. */
  hold(call: RunningCall): void
  /** It does not run here any more: it has ended, or another has the lease. */
  letGo(call: RunningCall, ended: boolean): void
  /** Takes the lease of a call, unless somebody has it. */
  claim(call: RunningCall): Promise<boolean>
}

export interface RunningCall {
  readonly id: SessionId
  readonly stream: StreamId
}

export type News =
  /** `stream` has grown; `last` is the place of its end. */
  | { readonly kind: 'grown'; readonly stream: StreamId; readonly last: number }
  /** Another process follows `stream` now. */
  | { readonly kind: 'followed'; readonly stream: StreamId }
  /** The session's state has another version. */
  | { readonly kind: 'changed'; readonly version: number }
  | { readonly kind: 'ended' }
  /** There may have been news. */
  | { readonly kind: 'missed' }

/** Takes a word to all processes of a server, the one that says it included. It may get lost. */
export interface Relay {
  tell(word: string): void
  hear(act: (word: string) => void): void
}

/** For a store that no other process shares. */
export const alone: Peers = {
  listen: () => () => undefined,
  follows: () => undefined,
  hold: () => undefined,
  letGo: () => undefined,
  claim: () => Promise.resolve(true),
}
