import type { Log, LogEvent } from '../mcp/log.ts'
import type { Meter } from '../mcp/meter.ts'
import { nameOf, shortId, shownOf, type Failover } from '../mcp/operator.ts'
import type { SessionId } from '../mcp/session/ids.ts'
import type { SessionRecord } from '../mcp/session/store.ts'
import type { Places } from './places.ts'
import { forgetSession, tellIndex } from './session-index.ts'
import type { Report } from './shard.ts'

const PAUSE_MS = 60_000
const FAILOVERS: Partial<Record<LogEvent['event'], Failover['kind']>> = {
  session_restored: 'restored',
  call_taken_over: 'taken_over',
}

export interface ReportsOptions {
  readonly places: Places
  readonly session: SessionId
  readonly instance: string
  readonly ttlMs: number
}

/** What is told of a session beside its record. */
export interface Activity {
  readonly streams: number
  readonly running: number
}

/**
 * What an object tells the index of its session, one thing after the other. Nothing waits for that,
 * and it does not fail: the index only counts and shows, and what is lost is told again in a minute.
 */
export class Reports {
  readonly #options: ReportsOptions
  #openedAt: number | undefined
  #calls = 0
  #failovers: Report['failovers'][number][] = []
  #toldAt = 0
  #last: Promise<unknown> = Promise.resolve()

  constructor(options: ReportsOptions) {
    this.#options = options
  }

  opened(): void {
    this.#openedAt = Date.now()
  }

  readonly meter: Meter = ({ kind }) => {
    if (kind === 'call') this.#calls++
  }

  /** What goes on in this incarnation was begun in an earlier one. */
  readonly log: Log = (event) => {
    const kind = FAILOVERS[event.event]
    if (kind === undefined || !('tookMs' in event)) return
    this.#failovers.push({ at: Date.now(), kind, tookMs: event.tookMs })
  }

  get isDue(): boolean {
    return Date.now() - this.#toldAt >= PAUSE_MS
  }

  tell(record: SessionRecord, activity: Activity): Promise<void> {
    const { places } = this.#options
    this.#toldAt = Date.now()
    const [calls, failovers] = [this.#calls, this.#failovers]
    this.#calls = 0
    this.#failovers = []
    return this.#next(async () => {
      const view = { ...(await this.#view(record, this.#toldAt)), ...activity, calls }
      const { session } = this.#options
      const report = { session, hasState: record.version > 0, view, failovers }
      await tellIndex(places, report, record.source)
    })
  }

  end({ source }: SessionRecord): Promise<void> {
    const { places, session } = this.#options
    return this.#next(() => forgetSession(places, session, source))
  }

  #next(tell: () => Promise<void>): Promise<void> {
    const told = this.#last.then(tell).catch(() => undefined)
    this.#last = told
    return told
  }

  async #view(record: SessionRecord, usedAt: number) {
    const { session, instance, ttlMs } = this.#options
    return {
      name: await nameOf(session),
      id: shortId(session),
      ...shownOf(record),
      holder: instance,
      openedAt: this.#openedAt,
      usedAt,
      // The record of the last use may be behind by as much.
      expiresAt: usedAt + ttlMs + PAUSE_MS,
    }
  }
}
