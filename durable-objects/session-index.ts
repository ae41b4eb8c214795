import { DurableObject } from 'cloudflare:workers'
import * as z from 'zod'
import { parseConfig } from '../mcp/config.ts'
import { Admission, tooManySessions } from '../mcp/session/census.ts'
import { randomText } from '../mcp/session/ids.ts'
import type { Secrets } from '../mcp/session/request-states.ts'
import type { Env } from './env.ts'

const SHARDS = 16
const ENTRIES = 'entries'
const FLUSH_MS = 60_000
const SECRETS = 'secrets'
const SECRET_AGE_MS = 24 * 60 * 60 * 1000

/**
 * Knows which sessions have state (one of a few shards), or which ones a source has opened: told by
 * each session at most once a minute and off the path of its calls. Kept in memory, and in one row
 * that is written at most once a minute: what a crash takes away, the sessions tell again.
 */
export class SessionIndex extends DurableObject<Env> {
  readonly #admission: Admission

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env)
    this.#admission = new Admission(entries.parse(ctx.storage.kv.get(ENTRIES) ?? []))
  }

  /** Whether one more session may be opened, which is counted then. */
  async admit(id: string): Promise<boolean> {
    const { limits, ttlMs } = parseConfig(this.env)
    const expiresAt = Date.now() + ttlMs + FLUSH_MS
    if (!this.#admission.admit(id, Date.now(), expiresAt, limits)) return false
    await this.#flushLater()
    return true
  }

  /** `expiresAt` in milliseconds since the epoch; in the past for a session that has ended. */
  async report(id: string, expiresAt: number): Promise<void> {
    this.#admission.report(id, expiresAt)
    await this.#flushLater()
  }

  count(): number {
    return this.#admission.alive(Date.now()).length
  }

  /** What the whole edge signs with: the newest first, and the one before it. */
  secrets(): string[] {
    const kept = secrets.parse(this.ctx.storage.kv.get(SECRETS) ?? [])
    const isFresh = (kept[0]?.madeAt ?? 0) > Date.now() - SECRET_AGE_MS
    const all = isFresh ? kept : [{ text: randomText(32), madeAt: Date.now() }, ...kept.slice(0, 1)]
    if (!isFresh) this.ctx.storage.kv.put(SECRETS, all)
    return all.map(({ text }) => text)
  }

  override async alarm(): Promise<void> {
    const alive = this.#admission.alive(Date.now())
    // Of a source that has left nothing stays behind.
    if (alive.length === 0) return this.ctx.storage.deleteAll()
    this.ctx.storage.kv.put(ENTRIES, [...alive])
    await this.ctx.storage.setAlarm(Math.max(...alive.map(([, expiresAt]) => expiresAt)) + 1)
  }

  async #flushLater(): Promise<void> {
    const due = Date.now() + FLUSH_MS
    const set = (await this.ctx.storage.getAlarm()) ?? Infinity
    if (set > due) await this.ctx.storage.setAlarm(due)
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

/** Makes room for a new session of `source`. Throws `too_many_sessions`, before any object is made. */
export async function admitSession({ INDEX, OPENING }: Env, id: string, source: string) {
  const isInTime = (await OPENING?.limit({ key: source }))?.success ?? true
  if (!isInTime || !(await ofSource(INDEX, source).admit(id.slice(0, 16)))) throw tooManySessions()
}

/** Says for how long a session will live: to its source's index, and if it has state to its shard. */
export async function reportSession(
  index: Env['INDEX'],
  { id, source, version }: { id: string; source: string | undefined; version: number },
  expiresAt: number,
): Promise<void> {
  const shard = index.getByName(`shard-${parseInt(id.slice(-4), 16) % SHARDS}`)
  const told = [
    ...(version > 0 ? [shard] : []),
    ...(source === undefined ? [] : [ofSource(index, source)]),
  ]
  await Promise.all(told.map((one) => one.report(id.slice(0, 16), expiresAt)))
}

function ofSource(index: Env['INDEX'], source: string) {
  return index.getByName(`source/${source}`)
}

export async function countSessions(index: Env['INDEX']): Promise<number> {
  const shards = Array.from({ length: SHARDS }, (_, shard) => index.getByName(`shard-${shard}`))
  const counts = await Promise.all(shards.map((shard) => shard.count()))
  return counts.reduce((sum, count) => sum + count, 0)
}
