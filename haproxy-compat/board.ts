import type { Log, LogEvent } from '../mcp/log.ts'
import type { Meter } from '../mcp/meter.ts'
import {
  shortId,
  type InstanceView,
  type Operator,
  type Overview,
  type SessionView,
} from '../mcp/operator.ts'
import type { Clock } from '../mcp/session/clock.ts'
import type { SessionId } from '../mcp/session/ids.ts'
import type { Activity, Onlooker } from '../mcp/session/onlooker.ts'
import type { BoardStore, Instance, Look, Session } from './board-store.ts'
import { createGathering, type Gathering } from './gathering.ts'
import { happeningsOf } from './happenings.ts'
import type { Listen } from './overhear.ts'
import { createVitals, type Vitals } from './vitals.ts'

export interface BoardOptions {
  readonly instance: string
  readonly topology: Overview['topology']
  readonly clock: Clock
  /** An unused session lives this long. */
  readonly ttlMs: number
  readonly store: BoardStore
  readonly listen: Listen
  /** Of those that have state, also what is not on the board. */
  readonly countSessions: () => Promise<number>
  readonly own: OnBoard
}

/** The instance that the board tells of. */
export interface OnBoard {
  readonly activity: () => Activity
  readonly isDraining: () => boolean
  readonly end: (id: SessionId) => Promise<boolean>
  /** Called when it is to take no more calls at an operator's word, or to take them again. */
  readonly drained: (isDrained: boolean) => void
}

export interface Board extends Operator {
  readonly onlooker: Onlooker
  readonly meter: Meter
  /** `log`; what goes to it is shown. */
  readonly counted: (log: Log) => Log
  /** Reports of the instance, once before it answers and then each second. */
  start(): Promise<void>
  /** Takes the instance off the board. */
  stop(): Promise<void>
}

const REPORT_MS = 1000
const LOST_MS = 3000

/**
 * What operators see of all instances, and do on them. Each one gathers what it knows off the way of its
 * calls and puts it up once a second; nothing here is needed for a call.
 */
export function createBoard(options: BoardOptions): Board {
  const { instance, clock, store, listen, own } = options
  const now = (): number => clock.now()
  const gathering = createGathering(now)
  const vitals = createVitals(now())
  let wasDrained = false
  let looking: Promise<Overview> | undefined

  function apply(isDrained: boolean): void {
    if (isDrained === wasDrained) return
    wasDrained = isDrained
    own.drained(isDrained)
  }

  async function look(): Promise<Overview> {
    const [{ at, ...found }, counted] = await Promise.all([store.look(), options.countSessions()])
    return overviewOf({ at, ...found }, counted, options)
  }

  return {
    onlooker: gathering,
    meter: (measured) => vitals.measured(measured),
    counted: (log) => (event: LogEvent) => {
      vitals.logged(event)
      gathering.logged(event)
      log(event)
    },
    ...createReports(options, gathering, vitals, apply),
    overview() {
      // However many ask at once, the board is read once.
      looking ??= look().finally(() => (looking = undefined))
      return looking
    },
    async end(name) {
      const id = await store.find(name)
      return id !== undefined && own.end(id)
    },
    async follow(name, signal) {
      const id = await store.find(name)
      return id && happeningsOf(listen, id, now, signal)
    },
    async drain(name, isDrained) {
      if (!(await store.drain(name, isDrained))) return false
      if (name === instance) apply(isDrained)
      return true
    },
  }
}

/** Puts up what is gathered, once a second. */
function createReports(
  { instance, clock, store, own }: BoardOptions,
  gathering: Gathering,
  vitals: Vitals,
  drained: (isDrained: boolean) => void,
): Pick<Board, 'start' | 'stop'> {
  let stopNext = (): void => undefined
  let reporting: Promise<void> | undefined
  let stopped = false

  async function report(): Promise<void> {
    const activity = own.activity()
    const state = own.isDraining() ? 'draining' : 'ready'
    const shown = { state, ...vitals.read(activity) } as const
    const gathered = await gathering.take(activity)
    try {
      const answer = await store.report({ instance, run: shown.startedAt, shown, ...gathered.told })
      drained(answer.drained)
    } catch {
      // The store is away: what is known now is told when it is back.
      gathering.giveBack(gathered)
    }
  }

  function plan(): void {
    if (stopped) return
    stopNext = clock.timer(REPORT_MS, () => {
      reporting = report()
      void reporting.finally(plan)
    })
  }

  return {
    async start() {
      await report()
      plan()
    },
    async stop() {
      stopped = true
      stopNext()
      // One that comes after it would put the instance up again.
      await reporting
      await store.leave(instance).catch(() => undefined)
    },
  }
}

function overviewOf(
  { at, instances, sessions, total, failovers }: Look,
  counted: number,
  { topology, ttlMs }: BoardOptions,
): Overview {
  const views = instances.map((one) => instanceView(one, at))
  const living = views.filter(({ state }) => state !== 'lost')
  const runs = new Map(living.map(({ name, startedAt }) => [name, startedAt]))
  return {
    at,
    topology,
    sessions: {
      // The board has the latest thousand, and the census those with state.
      total: Math.max(total, counted),
      latest: sessions.map((session) => sessionView(session, runs, ttlMs)),
    },
    instances: views.toSorted((a, b) => (a.name < b.name ? -1 : 1)),
    failovers,
  }
}

function instanceView(instance: Instance, at: number): InstanceView {
  return at - instance.reportedAt > LOST_MS ? { ...instance, state: 'lost' } : instance
}

/** Its id is cut here: whole, it does not leave the board. */
function sessionView(
  session: Session,
  runs: ReadonlyMap<string, number>,
  ttlMs: number,
): SessionView {
  const { busy, id, usedAt, name, principal, client, revision, holder, openedAt, calls } = session
  // What a process did that is no more, it does no more.
  const here = Object.entries(busy).flatMap(([where, one]) =>
    runs.get(where) === one.run ? [one] : [],
  )
  return {
    name,
    id: shortId(id),
    principal,
    client,
    revision,
    holder,
    openedAt,
    usedAt,
    expiresAt: usedAt + ttlMs,
    calls,
    streams: here.reduce((sum, { streams }) => sum + streams, 0),
    running: here.reduce((sum, { running }) => sum + running, 0),
  }
}
