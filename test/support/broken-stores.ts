import type { Commit, SessionStore, StreamEntries } from '../../mcp/session/store.ts'

// What the simulation must find: a store, or what is made of it, with one promise not kept.

/** An entry whose place another has taken goes behind it: who was taken over can still write. */
export function withoutFence(store: SessionStore): SessionStore {
  return {
    ...store,
    async commit(id, { append = [], ...commit }) {
      const moved = await Promise.all(
        append.map(async (part) => {
          const stored = await store.entries(id, part.stream, 0)
          const end = stored === undefined ? 0 : stored.at + stored.entries.length - 1
          return { ...part, at: end + 1 }
        }),
      )
      return store.commit(id, { ...commit, append: moved })
    },
  }
}

/** Nothing is known of a call that is sent again. */
export function withoutReplyRecord(store: SessionStore): SessionStore {
  return {
    ...store,
    load: (id) => store.load(id),
    commit(id, commit) {
      const forgotten: { reply?: unknown } = { ...commit }
      delete forgotten.reply
      return store.commit(id, forgotten as Commit)
    },
  }
}

/** Who follows a stream here sees what is not in the store yet, and may never be. */
export function sentBeforeCommit(store: SessionStore): SessionStore {
  const early = new Map<string, StreamEntries>()
  return {
    ...store,
    async commit(id, commit) {
      for (const { stream, ...part } of commit.append ?? []) early.set(stream, part)
      const outcome = await store.commit(id, commit)
      for (const { stream } of commit.append ?? []) early.delete(stream)
      return outcome
    },
    async entries(id, stream, after) {
      const stored = await store.entries(id, stream, after)
      const part = early.get(stream)
      if (stored === undefined || part?.at !== stored.at + stored.entries.length) return stored
      return { at: stored.at, entries: [...stored.entries, ...part.entries] }
    },
  }
}
