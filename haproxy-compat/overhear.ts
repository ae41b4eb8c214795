import type { SessionId } from '../mcp/session/ids.ts'
import { alone, type News, type Peers } from '../mcp/session/peers.ts'
import type { SessionStore } from '../mcp/session/store.ts'

/** Has `hear` told of all that is done with a session, until what it answers is called. */
export type Listen = (id: SessionId, hear: (news: News) => void) => () => void

export interface Overheard {
  readonly store: SessionStore
  readonly peers: Peers
  readonly listen: Listen
}

/** A store that no other process shares: what is done with its sessions is done by way of it. */
export function overhear(store: SessionStore): Overheard {
  const listeners = new Map<SessionId, Set<(news: News) => void>>()
  const tell = (id: SessionId, news: News): void => {
    for (const hear of listeners.get(id) ?? []) hear(news)
  }
  return {
    store: {
      load: (id, asked) => store.load(id, asked),
      entries: (id, stream, after) => store.entries(id, stream, after),
      running: (id) => store.running(id),
      async commit(id, commit) {
        const outcome = await store.commit(id, commit)
        if (outcome.kind !== 'committed' || !listeners.has(id)) return outcome
        for (const { stream, at, entries } of commit.append ?? []) {
          tell(id, { kind: 'grown', stream, last: at + entries.length - 1 })
        }
        if (commit.change) tell(id, { kind: 'changed', version: outcome.version })
        return outcome
      },
      async drop(id) {
        const dropped = await store.drop(id)
        tell(id, { kind: 'ended' })
        return dropped
      },
    },
    peers: { ...alone, follows: (id, stream) => tell(id, { kind: 'followed', stream }) },
    listen(id, hear) {
      const hearers = listeners.get(id) ?? new Set()
      listeners.set(id, hearers.add(hear))
      return () => {
        hearers.delete(hear)
        if (hearers.size === 0) listeners.delete(id)
      }
    },
  }
}
