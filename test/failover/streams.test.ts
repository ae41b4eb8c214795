import { describe, expect, it, onTestFinished } from 'vitest'
import {
  callsThatSpeak,
  everySecond,
  listenersOf,
  listenThrough,
  type Listener,
  type ListeningReport,
} from '../support/chaos.ts'
import type { Fleet } from '../support/fleet.ts'
import type { Fetch } from '../support/mcp.ts'
import { startWrangler } from '../support/wrangler.ts'
import { startFront } from './front.ts'

const KILLS = 3
// `npm run chaos` does it with ninety clients.
const IS_LONG = process.env['CHAOS_SECONDS'] !== undefined
const SECONDS = IS_LONG ? 30 : 8
const PER_KIND = IS_LONG ? 30 : 3
const CALLS = IS_LONG ? callsThatSpeak(20, 10) : callsThatSpeak(6, 3)

describe('what clients of the edge hear of their calls', () => {
  /**
   * The official clients try to resume twice, half a second apart as the server asks, and then give
   * up; a workerd that was killed takes seconds to be back on this machine. So connections go through
   * a front that cuts those that were open and holds those that come too early, as the platform's own
   * does when a machine behind it is lost. Nothing is killed before each call's stream has begun: a
   * client that has no event yet has nothing to resume, and none of these sends a call twice.
   */
  it('is all of it, once and in order, when all is killed in mid-call', async () => {
    let server = await startWrangler()
    onTestFinished(() => server.kill())
    const { port, state } = server
    const front = await startFront(port)
    onTestFinished(() => front.close())
    const listeners = await listenersOf(edgeAt(front.port), PER_KIND)
    const reports: ListeningReport[] = []
    const restartsMs: number[] = []
    for (let kill = 0; kill < KILLS; kill++) {
      const { noted, allBegun } = noteBegun(listeners)
      reports.push(
        await listenThrough(noted, CALLS, async () => {
          await allBegun
          const killedAt = performance.now()
          await server.kill()
          server = await startWrangler({ port, state })
          restartsMs.push(Math.round(performance.now() - killedAt))
        }),
      )
    }
    print(`${KILLS} kills, restarts of ${restartsMs.join(', ')} ms`, listeners, reports)
    await Promise.all(listeners.map((listener) => listener.close()))
    expect(reports.flatMap(({ faults }) => faults)).toEqual([])
  })

  it('is all of it, once and in order, while objects are reset every second', async () => {
    const server = await startWrangler({ entry: 'test/edge/worker.ts' })
    onTestFinished(() => server.kill())
    const listeners = await listenersOf(edgeAt(server.port), PER_KIND)
    let resets = 0
    const report = await listenThrough(listeners, CALLS, () =>
      everySecond(SECONDS, async () => {
        resets += Number(await (await fetch(`${server.url}/reset`)).text())
      }),
    )
    print(`${resets} resets`, listeners, [report])
    await Promise.all(listeners.map((listener) => listener.close()))
    expect(report.faults).toEqual([])
    expect(resets).toBeGreaterThanOrEqual(listeners.length * (SECONDS - 1))
    expect(Math.max(...report.longest)).toBeLessThan(5000)
  })
})

function edgeAt(port: number): Fleet {
  const url = `http://localhost:${port}/mcp`
  const fetchThere: Fetch = (request) => fetch(new Request(url, request))
  return { url, fetch: fetchThere } as Fleet
}

/** The same listeners, and word that each has heard the beginning of each of its next calls. */
function noteBegun(listeners: readonly Listener[]): {
  noted: Listener[]
  allBegun: Promise<void>
} {
  const { promise, resolve } = Promise.withResolvers<void>()
  let waiting = listeners.length * CALLS.length
  const noted = listeners.map((listener): Listener => {
    return {
      ...listener,
      run(call, hear) {
        let begun = false
        return listener.run(call, (text) => {
          hear(text)
          if (!begun && --waiting === 0) resolve()
          begun = true
        })
      },
    }
  })
  return { noted, allBegun: promise }
}

function print(
  what: string,
  listeners: readonly Listener[],
  reports: readonly ListeningReport[],
): void {
  const sum = (of: 'calls' | 'events'): number => reports.reduce((all, one) => all + one[of], 0)
  const faults = reports.flatMap((one) => one.faults).length
  const longest = Math.round(Math.max(...reports.flatMap((one) => one.longest)))
  console.log(
    `${what}: ${listeners.length} clients, ${sum('calls')} calls, ${sum('events')} events, ${faults} faults, longest pause ${longest} ms`,
  )
}
