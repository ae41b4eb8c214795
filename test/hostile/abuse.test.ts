/** Clients that hold what they have, in great number, while another one wants to be served. */
import { afterEach, describe, expect, it } from 'vitest'
import { openSession, until } from '../support/mcp.ts'
import { startCanaries, timesOf } from './abuse-canary.ts'
import { footprintsOf, growthOf, type Footprint } from './abuse-footprint.ts'
import { countsOf, holdAll, openStream, slowBody, slowHead, type Held } from './abuse-sockets.ts'
import { START, type Topology, type TopologyName } from './topologies.ts'

const CANARIES = 2
const SLOW = 500
const STREAMS = 1000
const SESSIONS = STREAMS / 2
const HOLD_MS = 6000
const SETTLE_MS = 1500
// A process keeps some of what it once had: V8's heap, HAProxy's pools.
const KEPT_MB = 100
const KEPT_FILES = 5

const NAMES: readonly TopologyName[] = ['fleet', 'node']

describe.each(NAMES)('connections that are held: %s', (name) => {
  let server: Topology

  afterEach(() => server.stop())

  it('leave a well-behaved client unharmed, and nothing behind', async () => {
    server = await START[name]({ LIVE_IDLE_SECONDS: '1', SESSIONS_PER_MINUTE: '6000' })
    const sessions = await openMany(server, SESSIONS)
    const pids = await server.pids()
    const before = await settled(pids)

    const canary = await startCanaries(server.fetch, CANARIES)
    const slow = await holdAll(slowOnes(server, sessions))
    const streams = await holdAll(streamsOf(server, sessions))
    await new Promise((resolve) => setTimeout(resolve, HOLD_MS))
    const during = footprintsOf(pids)
    const { faults, tookMs } = await canary.stop()
    const open = streams.filter((one) => !one.isOver()).length
    const answers = { slow: statusesOf(slow), streams: statusesOf(streams) }
    for (const one of [...slow, ...streams]) one.release()

    const after = await whenLetGo(before, pids)
    report(name, { ...timesOf(tookMs), calls: tookMs.length, ...answers, open })
    report('growth while held', growthOf(before, during))
    report('growth after', growthOf(before, after))
    expect(faults).toEqual([])
    expect(timesOf(tookMs).p99).toBeLessThan(250)
    expect(Object.keys(answers.streams).every((status) => ['200', '429'].includes(status))).toBe(
      true,
    )
    expect(answers.slow['200']).toBeUndefined()
    expect(await server.pids()).toEqual(pids)
    for (const { residentMb } of growthOf(before, after)) expect(residentMb).toBeLessThan(KEPT_MB)
  })
})

function slowOnes({ port }: Topology, [session = '']: readonly string[]): (() => Held)[] {
  return Array.from({ length: SLOW }, (_, at) => () => {
    return at % 2 === 0 ? slowHead(port) : slowBody(port, session)
  })
}

/** Half of them of one session, which can have but one at a time; the others of one each. */
function streamsOf({ port }: Topology, sessions: readonly string[]): (() => Held)[] {
  return Array.from({ length: STREAMS }, (_, at) => () => {
    return openStream(port, sessions[at % 2 === 0 ? 0 : (at - 1) / 2] ?? '')
  })
}

/** A few at a time, so that few connections are left over. */
async function openMany({ fetch }: Topology, count: number): Promise<string[]> {
  const opened: string[] = []
  const openSome = async (): Promise<void> => {
    while (opened.length < count) opened.push(await openSession(fetch))
  }
  await Promise.all(Array.from({ length: 8 }, openSome))
  return opened
}

function statusesOf(held: readonly Held[]): Record<string, number> {
  return countsOf(held.map(({ status }) => status()))
}

/** What they hold once connections that were used before are closed. */
async function settled(pids: readonly (number | null)[]): Promise<readonly Footprint[]> {
  const look = async (): Promise<Footprint[]> => {
    await new Promise((resolve) => setTimeout(resolve, SETTLE_MS))
    return footprintsOf(pids)
  }
  let known = await look()
  return until(look, (now) => {
    const isQuiet = growthOf(known, now).every(({ files }) => Math.abs(files) <= KEPT_FILES)
    known = now
    return isQuiet
  })
}

/** What they hold once all connections are gone that they have had from us. */
function whenLetGo(before: readonly Footprint[], pids: readonly (number | null)[]) {
  return until(
    async () => footprintsOf(pids),
    (now) => growthOf(before, now).every(({ files }) => files <= KEPT_FILES),
  )
}

function report(what: string, figures: object): void {
  console.log(`${what}: ${JSON.stringify(figures)}`)
}
