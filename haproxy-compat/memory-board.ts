import type { SessionName } from '../mcp/operator.ts'
import {
  SHOWN_FAILOVERS,
  SHOWN_SESSIONS,
  type BoardStore,
  type Instance,
  type Look,
  type Report,
  type Session,
  type SessionReport,
} from './board-store.ts'

const MOST_SESSIONS = 1000

/** The board of one process alone. */
export function createMemoryBoard({ ttlMs, now }: Lifetime): BoardStore {
  const { sessions, take } = createSessions({ ttlMs, now })
  let instance: Instance | undefined
  let failovers: Look['failovers'] = []
  let drained = false

  return {
    async report(report) {
      instance = { ...report.shown, name: report.instance, reportedAt: now() }
      // What it restores was never elsewhere: all there is to tell are calls that were gone on with.
      const taken = report.failovers.filter(({ kind }) => kind === 'taken_over')
      const shown = taken.map(({ at, kind, id, tookMs }) => {
        return { at, kind, id, tookMs, instance: report.instance, from: report.instance }
      })
      failovers = [...shown.toReversed(), ...failovers].slice(0, SHOWN_FAILOVERS)
      take(report)
      return { drained }
    },
    async look() {
      return {
        at: now(),
        instances: instance === undefined ? [] : [instance],
        sessions: [...sessions.values()].slice(-SHOWN_SESSIONS).toReversed(),
        total: sessions.size,
        failovers,
      }
    },
    find: async (name) => sessions.get(name)?.id,
    async drain(name, isDrained) {
      if (name !== instance?.name) return false
      drained = isDrained
      return true
    },
    leave: async () => undefined,
  }
}

interface Lifetime {
  readonly ttlMs: number
  readonly now: () => number
}

function createSessions({ ttlMs, now }: Lifetime) {
  /** Those used last come last. */
  const sessions = new Map<SessionName, Session>()
  const ended = new Set<SessionName>()

  function seen({ instance, run }: Report, { name, calls, streams, running, use }: SessionReport) {
    const isNew = use !== undefined && !ended.has(name)
    const first = isNew ? { ...use, name, holder: instance, calls: 0, busy: {} } : undefined
    const before = sessions.get(name) ?? first
    if (before === undefined) return
    const openedAt = Math.min(before.openedAt, use?.openedAt ?? Infinity)
    const busy = { [instance]: { run, streams, running } }
    if (use !== undefined) sessions.delete(name)
    sessions.set(name, { ...before, ...use, openedAt, calls: before.calls + calls, busy })
  }

  function take(report: Report): void {
    const inOrder = report.sessions.toSorted((a, b) => lastUse(a) - lastUse(b))
    for (const one of inOrder) seen(report, one)
    for (const name of report.ended) {
      sessions.delete(name)
      ended.add(name)
    }
    for (const [name, { usedAt }] of sessions) {
      if (usedAt > now() - ttlMs && sessions.size <= MOST_SESSIONS) break
      sessions.delete(name)
    }
    for (const name of ended) {
      if (ended.size <= MOST_SESSIONS) break
      ended.delete(name)
    }
  }

  return { sessions, take }
}

function lastUse({ use }: SessionReport): number {
  return use?.usedAt ?? 0
}
