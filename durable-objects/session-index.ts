import { DurableObject } from 'cloudflare:workers'
import * as z from 'zod'
import type { Env } from './env.ts'

const SHARDS = 16
const ENTRIES = 'entries'
const FLUSH_MS = 60_000

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

  override alarm(): void {
    this.count()
    this.ctx.storage.kv.put(ENTRIES, [...this.#expiries])
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
