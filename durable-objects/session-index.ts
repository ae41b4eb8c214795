import { DurableObject } from 'cloudflare:workers'
import * as z from 'zod'
import { randomText } from '../mcp/session/ids.ts'
import type { Secrets } from '../mcp/session/request-states.ts'
import type { Env } from './env.ts'

const SHARDS = 16
const ENTRIES = 'entries'
const FLUSH_MS = 60_000
const SECRETS = 'secrets'
const SECRET_AGE_MS = 24 * 60 * 60 * 1000

/**
 * Knows which sessions have state: one of a few shards, told by each session at most once a
 * minute and off the path of its calls. Kept in memory, and in one row that is written at most
 * once a minute: what a crash takes away, the sessions tell again.
 */
export class SessionIndex extends DurableObject<Env> {
  readonly #expiries: Map<string, number>

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env)
    this.#expiries = new Map(entries.parse(ctx.storage.kv.get(ENTRIES) ?? []))
  }

  /** `expiresAt` in milliseconds since the epoch; in the past for a session that has ended. */
  async report(id: string, expiresAt: number): Promise<void> {
    this.#expiries.set(id, expiresAt)
    if ((await this.ctx.storage.getAlarm()) === null) {
      await this.ctx.storage.setAlarm(Date.now() + FLUSH_MS)
    }
  }

  count(): number {
    for (const [id, expiresAt] of this.#expiries) {
      if (expiresAt < Date.now()) this.#expiries.delete(id)
    }
    return this.#expiries.size
  }

  /** What the whole edge signs with: the newest first, and the one before it. */
  secrets(): string[] {
    const kept = secrets.parse(this.ctx.storage.kv.get(SECRETS) ?? [])
    const isFresh = (kept[0]?.madeAt ?? 0) > Date.now() - SECRET_AGE_MS
    const all = isFresh ? kept : [{ text: randomText(32), madeAt: Date.now() }, ...kept.slice(0, 1)]
    if (!isFresh) this.ctx.storage.kv.put(SECRETS, all)
    return all.map(({ text }) => text)
  }

  override alarm(): void {
    this.count()
    this.ctx.storage.kv.put(ENTRIES, [...this.#expiries])
  }
}

const secrets = z.array(z.object({ text: z.string(), madeAt: z.number() }))

/** The secrets of the edge, asked for once a minute at most. */
export function edgeSecrets(index: Env['INDEX']): Secrets {
  const ask = async () =>
    z.tuple([z.string()], z.string()).parse(await index.getByName(SECRETS).secrets())
  let known: { readonly asked: ReturnType<typeof ask>; readonly at: number } | undefined
  return () => {
    if (known === undefined || known.at < Date.now() - FLUSH_MS) {
      known = { asked: ask(), at: Date.now() }
      known.asked.catch(() => (known = undefined))
    }
    return known.asked
  }
}

const entries = z.array(z.tuple([z.string(), z.number()]))

/** Tells session `id`'s shard for how long it will live. */
export function reportSession(index: Env['INDEX'], id: string, expiresAt: number): Promise<void> {
  const shard = parseInt(id.slice(-4), 16) % SHARDS
  return index.getByName(`shard-${shard}`).report(id.slice(0, 16), expiresAt)
}

export async function countSessions(index: Env['INDEX']): Promise<number> {
  const shards = Array.from({ length: SHARDS }, (_, shard) => index.getByName(`shard-${shard}`))
  const counts = await Promise.all(shards.map((shard) => shard.count()))
  return counts.reduce((sum, count) => sum + count, 0)
}
