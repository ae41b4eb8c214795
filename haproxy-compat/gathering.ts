import type { LogEvent } from '../mcp/log.ts'
import { nameOf, shortId, shownOf } from '../mcp/operator.ts'
import type { SessionId } from '../mcp/session/ids.ts'
import type { Activity, Busy, Onlooker } from '../mcp/session/onlooker.ts'
import type { SessionRecord } from '../mcp/session/store.ts'
import type { FailoverReport, Report, SessionReport } from './board-store.ts'

// As many uses as a board takes in of one instance at once. The rest waits for the next report, the latest
// first; what is older than that many more is forgotten, and so it is of sessions that have ended.
const MOST_AT_ONCE = 500
const MOST_WAITING = 2000
const MOST_FAILOVERS = 50

export interface Gathering extends Onlooker {
  /** What was put on record: a session that was restored, a call that was gone on with. */
  logged(event: LogEvent): void
  /** What has come up since the last time, and what is going on now. */
  take(activity: Activity): Promise<Gathered>
  /** It has not got there. */
  giveBack(gathered: Gathered): void
}

interface Gathered {
  readonly told: Pick<Report, 'sessions' | 'ended' | 'failovers'>
  /** What it was made of. */
  readonly noted: readonly (readonly [SessionId, Noted])[]
  readonly ended: readonly SessionId[]
  readonly failovers: readonly Elsewhere[]
}

/** A session of which there is something to tell. */
interface Noted {
  calls: number
  record?: SessionRecord | undefined
  openedAt: number
  usedAt: number
}

const FIRST: Noted = { calls: 0, openedAt: Infinity, usedAt: 0 }
const QUIET: Busy = { streams: 0, running: 0 }

/** Notes what goes on with the sessions of one process: a map's entry for each use, and no more. */
export function createGathering(now: () => number): Gathering {
  /** Those used last come last. */
  const noted = new Map<SessionId, Noted>()
  let ended = new Set<SessionId>()
  let failovers: readonly Elsewhere[] = []
  let busyBefore: Activity['busy'] = new Map()

  function note(id: SessionId): Noted {
    const known = noted.get(id) ?? { calls: 0, openedAt: now(), usedAt: 0 }
    noted.delete(id)
    noted.set(id, known)
    if (noted.size > MOST_WAITING) noted.delete(noted.keys().next().value ?? id)
    return known
  }

  /** Has what began or ended since the last report told with the next one. */
  function compare(busy: Activity['busy']): void {
    for (const id of new Set([...busyBefore.keys(), ...busy.keys()])) {
      if (!isSame(busyBefore.get(id), busy.get(id)) && !noted.has(id)) note(id)
    }
    busyBefore = busy
  }

  return {
    used(id, record) {
      const known = note(id)
      known.record = record
      known.usedAt = now()
    },
    called: (id) => void note(id).calls++,
    ended(id) {
      noted.delete(id)
      ended.add(id)
    },
    logged(event) {
      const what = elsewhereOf(event, now())
      if (what !== undefined) failovers = [...failovers, what].slice(-MOST_FAILOVERS)
    },
    async take({ busy }) {
      compare(busy)
      const taken = {
        noted: [...noted].slice(-MOST_AT_ONCE).toReversed(),
        ended: [...ended].slice(-MOST_WAITING),
        failovers,
      }
      for (const [id] of taken.noted) noted.delete(id)
      ended.clear()
      failovers = []
      return { ...taken, told: await tell(taken, busy) }
    },
    giveBack(gathered) {
      for (const [id, before] of gathered.noted) {
        const { calls, openedAt, usedAt, record = before.record } = noted.get(id) ?? FIRST
        noted.set(id, {
          record,
          calls: calls + before.calls,
          openedAt: Math.min(openedAt, before.openedAt),
          usedAt: Math.max(usedAt, before.usedAt),
        })
      }
      ended = new Set([...gathered.ended, ...ended])
      failovers = [...gathered.failovers, ...failovers]
    },
  }
}

async function tell(
  { noted, ended, failovers }: Omit<Gathered, 'told'>,
  busy: Activity['busy'],
): Promise<Gathered['told']> {
  return {
    sessions: await Promise.all(noted.map(([id, one]) => reportOf(id, one, busy.get(id)))),
    ended: await Promise.all(ended.map(nameOf)),
    failovers: await Promise.all(
      failovers.map(async ({ session, ...what }) => ({ ...what, name: await nameOf(session) })),
    ),
  }
}

async function reportOf(id: SessionId, noted: Noted, busy = QUIET): Promise<SessionReport> {
  const { record, calls, openedAt, usedAt } = noted
  const use = record && { id, ...shownOf(record), openedAt, usedAt }
  return { name: await nameOf(id), calls, ...busy, use }
}

/** What went on elsewhere, or here again. */
interface Elsewhere extends Omit<FailoverReport, 'name'> {
  readonly session: SessionId
}

function elsewhereOf(event: LogEvent, at: number): Elsewhere | undefined {
  if (event.event !== 'session_restored' && event.event !== 'call_taken_over') return undefined
  const kind = event.event === 'session_restored' ? 'restored' : 'taken_over'
  const id = shortId(event.session)
  return { at, kind, id, tookMs: event.tookMs, session: event.session as SessionId }
}

function isSame(a = QUIET, b = QUIET): boolean {
  return a.streams === b.streams && a.running === b.running
}
