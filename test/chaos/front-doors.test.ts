/** Instances die and drain behind nginx, which checks nobody: it learns by requests that fail. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import {
  callsThatSpeak,
  expectNoFault,
  listenersOf,
  listenThrough,
  stockCallers,
  underChaos,
} from '../support/chaos.ts'
import { startFleet, type Fleet } from '../support/fleet.ts'
import { until } from '../support/mcp.ts'
import { DOORS, startNginx, type Nginx } from '../support/nginx.ts'

const SESSIONS = 10

describe('stock clients behind nginx', () => {
  let fleet: Fleet
  let nginx: Nginx

  beforeAll(async () => {
    fleet = await startFleet()
  })
  beforeEach(() => fleet.allAre('UP'))
  afterEach(() => nginx.stop())
  afterAll(() => fleet.stop())

  it.each(DOORS)('notice no instance that is killed, and none that drains: %s', async (door) => {
    nginx = await startNginx(
      door,
      fleet.map().instances.map(({ url }) => url),
    )
    const through = { ...fleet, url: nginx.url, fetch: nginx.fetch }
    const callers = await stockCallers(through, SESSIONS)
    const listeners = await listenersOf(through, 1)
    const disturbed = (async () => {
      await replace('mcp-server-1', 'SIGKILL')
      await replace('mcp-server-2', 'SIGTERM')
    })()
    const [report, { faults }] = await Promise.all([
      underChaos(callers, () => disturbed),
      listenThrough(listeners, callsThatSpeak(2, 1), () => disturbed),
    ])
    await Promise.all([...callers, ...listeners].map((client) => client.close()))
    expectNoFault(report)
    // Streamed calls go on elsewhere, once their clients have resumed them: each event once and in order.
    expect(faults).toEqual([])
  })

  /** Stops an instance, and waits until another process is ready in its place. */
  async function replace(name: string, signal: NodeJS.Signals): Promise<void> {
    const old = fleet.pid(name)
    const { url } = fleet.map().instances.find(({ id }) => id === name) ?? {}
    fleet.signal(name, signal)
    const isReady = (): Promise<boolean> =>
      fetch(`${url}/ready`).then(
        ({ ok }) => ok && fleet.pid(name) !== old,
        () => false,
      )
    await until(isReady, Boolean)
  }
})
