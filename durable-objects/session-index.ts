import { DurableObject } from 'cloudflare:workers'
import * as z from 'zod'
import { parseConfig } from '../mcp/config.ts'
import type { SessionName } from '../mcp/operator.ts'
import { Admission, tooManySessions } from '../mcp/session/census.ts'
import { randomText, type SessionId } from '../mcp/session/ids.ts'
import type { Secrets } from '../mcp/session/request-states.ts'
import type { Post } from '../mcp/session/router.ts'
import type { Env } from './env.ts'
import type { Places } from './places.ts'
import { Shard, type Report, type ShardPage } from './shard.ts'

const SHARDS = 16
const ENTRIES = 'entries'
const SHARD = 'shard'
// An object that nobody asks anything is let go after ten seconds, and what it has not written is lost.
const WRITE_MS = 10_000
const LATE_MS = 60_000
const SECRETS = 'secrets'
const SECRET_AGE_MS = 24 * 60 * 60 * 1000

/**
 * Knows sessions (one of a few shards), or which ones a source has opened: told by each session when
 * it opens and ends, and between that at most once a minute and off the path of its calls. Kept in
 * memory, and in one row that is written at most each ten seconds: what a crash takes away, the
 * sessions tell again.
 */
export class SessionIndex extends DurableObject<Env> {
  readonly #admission: Admission
  readonly #shard: Shard
  #writtenAt = 0
  /** Whether memory knows more than the row. */
  #isBehind = false

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env)
    this.#admission = new Admission(entries.parse(ctx.storage.kv.get(ENTRIES) ?? []))
    this.#shard = new Shard(ctx.storage.kv.get(SHARD))
  }

  /** Whether one more session may be opened, which is counted then. */
  async admit(id: string): Promise<boolean> {
    const { limits, ttlMs } = parseConfig(this.env)
    const expiresAt = Date.now() + ttlMs + LATE_MS
    if (!this.#admission.admit(id, Date.now(), expiresAt, limits)) return false
    await this.#keep()
    return true
  }

  /** `expiresAt` in milliseconds since the epoch; in the past for a session that has ended. */
  async report(id: string, expiresAt: number): Promise<void> {
    this.#admission.report(id, expiresAt)
    await this.#keep()
  }

  async tell(report: Report): Promise<void> {
    this.#shard.tell(report)
    await this.#keep()
  }

  async forget(session: SessionId): Promise<void> {
    this.#shard.forget(session)
    await this.#keep()
  }

  /** How many of its sessions have state. */
  count(): number {
    return this.#shard.countWithState(Date.now())
  }

  page(): ShardPage {
    return this.#shard.page(Date.now())
  }

  find(name: SessionName): Promise<SessionId | undefined> {
    return this.#shard.find(name)
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
    // Where one report has come there may be more: one alarm less than if it went back and forth.
    const next = this.#isBehind ? Date.now() + WRITE_MS : undefined
    await this.#write(next)
  }

  /** Writes at once if it has not for a while, and else as soon as it may. */
  async #keep(): Promise<void> {
    const due = this.#writtenAt + WRITE_MS
    if (due <= Date.now()) return this.#write()
    this.#isBehind = true
    const set = (await this.ctx.storage.getAlarm()) ?? Infinity
    if (set > due) await this.ctx.storage.setAlarm(due)
  }

  /** `next` is when to look again, if not for the end of the last session. */
  async #write(next?: number): Promise<void> {
    const { storage } = this.ctx
    const now = Date.now()
    this.#writtenAt = now
    this.#isBehind = false
    const opened = this.#admission.alive(now)
    const ends = [this.#shard.endsAt(now), ...opened.map(([, expiresAt]) => expiresAt)]
    const end = ends.reduce((one, other) => Math.max(one, other))
    // Of a source that has left nothing stays behind.
    if (end === 0) return storage.deleteAll()
    if (opened.length > 0) storage.kv.put(ENTRIES, [...opened])
    if (this.#shard.endsAt(now) > 0) storage.kv.put(SHARD, this.#shard.pack())
    if ((await storage.getAlarm()) === null) await storage.setAlarm(next ?? end + 1)
  }
}

const secrets = z.array(z.object({ text: z.string(), madeAt: z.number() }))

/** The secrets of the edge, asked for once a minute at most. */
export function edgeSecrets(places: Places): Secrets {
  const ask = async () =>
    z.tuple([z.string()], z.string()).parse(await places.index(SECRETS).secrets())
  let known: { readonly asked: ReturnType<typeof ask>; readonly at: number } | undefined
  return () => {
    if (known === undefined || known.at < Date.now() - LATE_MS) {
      known = { asked: ask(), at: Date.now() }
      known.asked.catch(() => (known = undefined))
    }
    return known.asked
  }
}

const entries = z.array(z.tuple([z.string(), z.number()]))

/** The object of a session that is about to begin. Throws `too_many_sessions`, with nothing made. */
export async function newSession(
  places: Places,
  { OPENING }: Env,
  { source: given, principal }: Post,
): Promise<DurableObjectId> {
  const source = given ?? principal
  const isInTime = (await OPENING?.limit({ key: source }))?.success ?? true
  if (!isInTime) throw tooManySessions()
  const object = places.newSession()
  if (!(await ofSource(places, source).admit(shortOf(object.toString())))) throw tooManySessions()
  return object
}

/** Tells a session's shard of it, and until when it lives its source's index. */
export async function tellIndex(
  places: Places,
  report: Report,
  source: string | undefined,
): Promise<void> {
  const { session, view } = report
  await Promise.all([
    shardOf(places, session).tell(report),
    source && ofSource(places, source).report(shortOf(session), view.expiresAt),
  ])
}

/** Has the index forget a session, which has ended. */
export async function forgetSession(
  places: Places,
  session: SessionId,
  source: string | undefined,
): Promise<void> {
  await Promise.all([
    shardOf(places, session).forget(session),
    source && ofSource(places, source).report(shortOf(session), 0),
  ])
}

/** How many sessions have state. */
export async function countSessions(places: Places): Promise<number> {
  const counts = await Promise.all(shards(places).map((shard) => shard.count()))
  return counts.reduce((sum, count) => sum + count, 0)
}

export function shards(places: Places) {
  return Array.from({ length: SHARDS }, (_, shard) => places.index(`shard-${shard}`))
}

export function shardOf(places: Places, session: SessionId) {
  return places.index(`shard-${parseInt(session.slice(-4), 16) % SHARDS}`)
}

function ofSource(places: Places, source: string) {
  return places.index(`source/${source}`)
}

function shortOf(session: string): string {
  return session.slice(0, 16)
}
