import { eventId, type Principal, type SessionId } from './ids.ts'
import { refusalOf } from './refusal.ts'
import type { SessionRouter, StateOf } from './router.ts'
import { openSession, restoreRuntime, type RuntimeOptions, type SessionRuntime } from './runtime.ts'
import { Followers, locate } from './streams.ts'

export interface LocalRouterOptions extends Omit<
  RuntimeOptions,
  'id' | 'grown' | 'detach' | 'stateOf'
> {
  readonly mintId: () => SessionId
}

/** Holds sessions in this process, and restores from the store those that it does not hold yet. */
export function createLocalRouter({ mintId, ...options }: LocalRouterOptions): SessionRouter {
  const { store } = options
  const held = new Map<SessionId, Promise<SessionRuntime | undefined>>()
  const followers = new Followers()

  const stateOf: StateOf = async (id, principal) => {
    const record = (await store.load(id as SessionId))?.record
    return record?.principal === principal ? record.state : undefined
  }

  function runtimeOptions(id: SessionId): RuntimeOptions {
    const grown = followers.wake.bind(followers)
    const detach = followers.detach.bind(followers)
    return { ...options, id, stateOf, grown, detach }
  }

  async function find(id: SessionId, principal: Principal): Promise<SessionRuntime | undefined> {
    const found = held.get(id) ?? restoreRuntime(runtimeOptions(id))
    held.set(id, found)
    const runtime = await found.catch(() => undefined)
    if (runtime === undefined) held.delete(id)
    return runtime?.record.principal === principal ? runtime : undefined
  }

  return {
    async open(post) {
      const id = mintId()
      const opened = await openSession(post, runtimeOptions(id))
      if (opened.kind !== 'opened') return opened
      held.set(id, Promise.resolve(opened.runtime))
      return { kind: 'opened', id, body: opened.body }
    },

    async deliver(id, post) {
      const runtime = await find(id, post.principal)
      const answer = (await runtime?.deliver(post)) ?? { kind: 'gone' }
      if (answer.kind === 'gone' && runtime !== undefined) held.delete(id)
      return answer
    },

    async follow(id, principal, { lastEventId, signal }) {
      const runtime = await find(id, principal)
      const record = (await store.load(id))?.record
      if (runtime === undefined || record === undefined) return { kind: 'gone' }
      try {
        const start = await locate(store, id, record, lastEventId)
        await runtime.closeOrphan(start.stream)
        const events = followers.follow(store, id, start, signal)
        return { kind: 'following', after: eventId(start), events }
      } catch (error) {
        return refusalOf(error, options.log)
      }
    },

    async end(id, principal) {
      const runtime = await find(id, principal)
      if (runtime === undefined) return false
      held.delete(id)
      const existed = await store.drop(id)
      followers.end(id)
      await runtime.close()
      return existed
    },
  }
}
