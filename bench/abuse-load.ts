/** Load with clients that behave, and what came of it. */
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import { percentile } from '../test/support/percentile.ts'
import { Connection, type Answer } from './abuse-clients.ts'
import { round } from './figures.ts'

/** A session, and what its counter must say: `lost` are calls of which nobody knows. */
export interface Counted {
  readonly id: string
  answered: number
  lost: number
}

export interface Outcome {
  readonly served: number[]
  readonly refused: number[]
  /** Refusals that did not say when to come back. */
  untold: number
  streams: number
  lost: number
  /** Calls that an arrival could not make, as there was no connection left. */
  unsent: number
  statuses: Record<number, number>
  seconds: number
  /** How late the load generator itself was, in ms: the 99th percentile. */
  ownDelayMs: number
}

export interface Load {
  readonly url: string
  readonly sessions: readonly Counted[]
  readonly seconds: number
}

/**
 * So many clients, with a session each, that call as soon as they are answered or may come back. They come
 * within a second: what is measured is load, and not how fast connections are made.
 */
export function closedLoop({ url, sessions, seconds }: Load, clients: number): Promise<Outcome> {
  return measured(async (outcome) => {
    const until = performance.now() + seconds * 1000
    const run = async (session: Counted, at: number): Promise<void> => {
      await sleep((at * 1000) / clients)
      const connection = new Connection(url)
      while (performance.now() < until) {
        const waitMs = await callOnce(connection, session, outcome)
        const leftMs = Math.max(0, until - performance.now())
        if (waitMs > 0) await sleep(Math.min(waitMs, leftMs))
      }
      connection.close()
    }
    await Promise.all(sessions.slice(0, clients).map(run))
  })
}

/** So many calls a second, whatever becomes of those before; a client that is refused does not come back. */
export function openLoop(load: Load, perSecond: number, most: number): Promise<Outcome> {
  const { url, sessions, seconds } = load
  return measured(async (outcome) => {
    const free: Connection[] = []
    const calls = new Set<Promise<unknown>>()
    let connections = 0
    const arrive = (session: Counted | undefined): void => {
      const connection = free.pop() ?? (connections++ < most ? new Connection(url) : undefined)
      if (connection === undefined || session === undefined) {
        outcome.unsent++
        return
      }
      const call = callOnce(connection, session, outcome).then(() => free.push(connection))
      calls.add(call)
      void call.finally(() => calls.delete(call))
    }
    const began = performance.now()
    for (let due = 0, at = 0; due < seconds * perSecond; await sleep(1)) {
      due = Math.min(((performance.now() - began) * perSecond) / 1000, seconds * perSecond)
      for (; at < due; at++) arrive(sessions[at % sessions.length])
    }
    await Promise.all(calls)
    for (const connection of free) connection.close()
  })
}

async function measured(act: (outcome: Outcome) => Promise<void>): Promise<Outcome> {
  const outcome: Outcome = {
    served: [],
    refused: [],
    untold: 0,
    streams: 0,
    lost: 0,
    unsent: 0,
    statuses: {},
    seconds: 0,
    ownDelayMs: 0,
  }
  const delay = monitorEventLoopDelay({ resolution: 5 })
  delay.enable()
  const began = performance.now()
  await act(outcome)
  outcome.seconds = (performance.now() - began) / 1000
  outcome.ownDelayMs = delay.percentile(99) / 1e6
  delay.disable()
  return outcome
}

/** Answers how long its client is to wait before the next one. */
async function callOnce(
  connection: Connection,
  session: Counted,
  outcome: Outcome,
): Promise<number> {
  try {
    return take(await connection.call(session.id), session, outcome)
  } catch {
    outcome.lost++
    session.lost++
    return 0
  }
}

function take(answer: Answer, session: Counted, outcome: Outcome): number {
  const { status, tookMs, retryAfterMs, isStream } = answer
  outcome.statuses[status] = (outcome.statuses[status] ?? 0) + 1
  if (isStream) outcome.streams++
  if (status === 200) {
    session.answered++
    outcome.served.push(tookMs)
    return 0
  }
  outcome.refused.push(tookMs)
  if (retryAfterMs === undefined) outcome.untold++
  return retryAfterMs ?? 1000
}

/** As a row of a table. */
export function rowOf({ served, refused, ...outcome }: Outcome) {
  return {
    'served/s': Math.round(served.length / outcome.seconds),
    'p50 ms': round(percentile(served, 50)),
    'p99 ms': round(percentile(served, 99)),
    refused: refused.length,
    'refused p50 ms': round(percentile(refused, 50)),
    'refused p99 ms': round(percentile(refused, 99)),
    'no Retry-After': outcome.untold,
    streams: outcome.streams,
    lost: outcome.lost,
    unsent: outcome.unsent,
    'own delay ms': round(outcome.ownDelayMs),
  }
}
