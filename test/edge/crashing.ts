import { SessionObject } from '../../durable-objects/mcp-session.ts'
import { createSqliteStore, type ObjectStore } from '../../durable-objects/sqlite-store.ts'
import type { SessionId } from '../../mcp/session/ids.ts'
import { tools } from '../../mcp/tools/index.ts'
import type { Tool } from '../../mcp/session/tool.ts'

/**
 * On which side of its store's operation an object is reset: before it; behind it, when nobody knows
 * whether the disk has it; and when the disk has it.
 */
export const SIDES = ['before', 'behind', 'written'] as const

export interface Crash {
  /** How many operations after the last crash; counts from 1, whichever incarnation they are of. */
  readonly after: number
  readonly side: (typeof SIDES)[number]
}

export interface Plan {
  /** Operations since the last crash. */
  operations: number
  readonly left: Crash[]
}

/** Resets the object of `session` at these of its store's operations, counted from now on. */
export function planCrashes(session: string, crashes: readonly Crash[]): Plan {
  const plan = { operations: 0, left: [...crashes] }
  plans.set(session, plan)
  return plan
}

/** Has each session offer `tool` as well: tests share their modules with the Worker under test. */
export function offer(tool: Tool): void {
  ;(tools.tools as Tool[]).push(tool)
}

const plans = new Map<string, Plan>()
/** The present incarnation of each object. */
const contexts = new Map<string, DurableObjectState>()

wrap(SessionObject.prototype, ['open', 'deliver', 'fetch', 'alarm'], function enter(act) {
  const { ctx } = this as { ctx: DurableObjectState }
  contexts.set(ctx.id.toString(), ctx)
  return act()
})

wrap(storePrototype(), ['load', 'commit', 'entries', 'running'], (act, id) =>
  crashAround(String(id), act),
)

async function crashAround(id: string, act: () => unknown): Promise<unknown> {
  const plan = plans.get(id)
  const [crash] = plan?.left ?? []
  const ctx = contexts.get(id)
  if (plan === undefined || crash === undefined || ctx === undefined) return act()
  plan.operations++
  if (plan.operations < crash.after) return act()
  plan.operations = 0
  plan.left.shift()
  if (crash.side !== 'before') await act()
  if (crash.side === 'written') await ctx.storage.sync()
  ctx.abort('planned')
  throw new Error('planned')
}

function storePrototype(): ObjectStore {
  const storage = { kv: { get: () => undefined } } as never
  const options = {
    now: Date.now,
    ttlMs: 1,
    touchMs: 1,
    replyRetentionMs: 1,
    maxRepliesPerSession: 1,
  }
  return Object.getPrototypeOf(createSqliteStore(storage, options)) as ObjectStore
}

type Method = (...args: unknown[]) => unknown
type Around = (this: unknown, act: () => unknown, id: SessionId) => unknown

function wrap<T extends object>(owner: T, names: readonly (keyof T)[], around: Around): void {
  const methods = owner as Record<keyof T, Method>
  for (const name of names) {
    const original = methods[name]
    methods[name] = function wrapped(this: unknown, ...args: unknown[]) {
      return around.call(this, () => original.apply(this, args), args[0] as SessionId)
    }
  }
}
