import * as z from 'zod'
import { nameOf, type Failover, type SessionName, type SessionView } from '../mcp/operator.ts'
import type { SessionId } from '../mcp/session/ids.ts'

// One row is all of a shard, and takes 2 MB: a session is some 80 bytes of it, a view 400.
const MAX_SESSIONS = 20_000
const MAX_VIEWS = 200
const MAX_FAILOVERS = 50

/** What a session tells of itself. Its id is whole, and goes no further than the index. */
export interface Report {
  readonly session: SessionId
  readonly hasState: boolean
  /** `calls`: since it told last. `openedAt` is known to the incarnation that has opened it. */
  readonly view: Omit<SessionView, 'openedAt'> & { readonly openedAt?: number | undefined }
  readonly failovers: readonly Pick<Failover, 'at' | 'kind' | 'tookMs'>[]
}

/** What a shard knows, for operators. */
export interface ShardPage {
  readonly total: number
  readonly latest: readonly SessionView[]
  readonly failovers: readonly Failover[]
  /** Since the shard has had sessions. */
  readonly counters: Counters
}

export type Counters = z.output<typeof counters>

/** A part of the sessions of the edge, in memory. In its maps those that told last come last. */
export class Shard {
  readonly #sessions: Map<SessionId, { readonly expiresAt: number; readonly hasState: boolean }>
  readonly #views: Map<SessionId, SessionView>
  #failovers: readonly Failover[]
  #counters: Counters

  constructor(packed: unknown) {
    const row = shardRow.parse(packed ?? EMPTY)
    this.#sessions = new Map(
      row.sessions.map(([id, expiresAt, hasState]) => [id, { expiresAt, hasState }]),
    )
    this.#views = new Map(row.views)
    this.#failovers = row.failovers
    this.#counters = row.counters
  }

  tell({ session, hasState, view, failovers }: Report): void {
    const before = this.#views.get(session)
    this.forget(session)
    this.#sessions.set(session, { expiresAt: view.expiresAt, hasState })
    const openedAt = view.openedAt ?? before?.openedAt ?? view.usedAt
    this.#views.set(session, { ...view, openedAt, calls: (before?.calls ?? 0) + view.calls })
    for (const [oldest] of this.#views) {
      if (this.#views.size <= MAX_VIEWS) break
      this.#views.delete(oldest)
    }
    const { id, holder: instance } = view
    const from = before?.holder === instance ? undefined : before?.holder
    const told = failovers.map((failover) => ({ ...failover, id, instance, from }))
    this.#failovers = [...told, ...this.#failovers].slice(0, MAX_FAILOVERS)
    this.#count(view.calls, failovers)
  }

  forget(session: SessionId): void {
    this.#sessions.delete(session)
    this.#views.delete(session)
  }

  /** How many of its sessions have state. */
  countWithState(now: number): number {
    this.#expire(now)
    return [...this.#sessions.values()].filter(({ hasState }) => hasState).length
  }

  /** When the last of its sessions expires, if nobody uses it any more; 0 if there is none. */
  endsAt(now: number): number {
    this.#expire(now)
    let last = 0
    for (const { expiresAt } of this.#sessions.values()) last = Math.max(last, expiresAt)
    return last
  }

  page(now: number): ShardPage {
    this.#expire(now)
    return {
      total: this.#sessions.size,
      latest: [...this.#views.values()].toReversed(),
      failovers: this.#failovers,
      counters: this.#counters,
    }
  }

  async find(name: SessionName): Promise<SessionId | undefined> {
    for (const [id, view] of this.#views) if (view.name === name) return id
    for (const id of this.#sessions.keys()) if ((await nameOf(id)) === name) return id
    return undefined
  }

  /** What the next incarnation is to know. */
  pack(): z.input<typeof shardRow> {
    const sessions = Array.from(this.#sessions, ([id, { expiresAt, hasState }]) => {
      return [id, expiresAt, hasState] as [SessionId, number, boolean]
    })
    return {
      sessions: sessions.slice(-MAX_SESSIONS),
      views: [...this.#views],
      failovers: [...this.#failovers],
      counters: this.#counters,
    }
  }

  #count(calls: number, failovers: Report['failovers']): void {
    const { restored, takenOver, ...counted } = this.#counters
    const kinds = failovers.map(({ kind }) => kind)
    this.#counters = {
      calls: counted.calls + calls,
      restored: restored + kinds.filter((kind) => kind === 'restored').length,
      takenOver: takenOver + kinds.filter((kind) => kind === 'taken_over').length,
    }
  }

  #expire(now: number): void {
    for (const [id, { expiresAt }] of this.#sessions) if (expiresAt <= now) this.forget(id)
  }
}

const sessionId = z.custom<SessionId>((value) => typeof value === 'string')
// What is in a view was the writer's care; that it is one is looked at.
const view = z.custom<SessionView>((value) => typeof value === 'object' && value !== null)
const failover = z.custom<Failover>((value) => typeof value === 'object' && value !== null)
const counters = z.object({ calls: z.number(), restored: z.number(), takenOver: z.number() })
const shardRow = z.object({
  sessions: z.array(z.tuple([sessionId, z.number(), z.boolean()])),
  views: z.array(z.tuple([sessionId, view])),
  failovers: z.array(failover),
  counters,
})
const EMPTY: z.input<typeof shardRow> = {
  sessions: [],
  views: [],
  failovers: [],
  counters: { calls: 0, restored: 0, takenOver: 0 },
}
