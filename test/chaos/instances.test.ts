/**
 * Instances die, drain and are passed by, under load from clients that do nothing about it. `npm run
 * chaos` takes a minute for each kind of killing, `npm test` some seconds.
 */
import { afterEach, describe, expect, it } from 'vitest'
import {
  everySecond,
  expectNoFault,
  killAny,
  pause,
  stockCallers,
  streamingLoad,
  underChaos,
} from '../support/chaos.ts'
import { withoutAffinity } from '../support/affinity.ts'
import { startFleet, type Fleet } from '../support/fleet.ts'
import { until } from '../support/mcp.ts'

const { CHAOS_SECONDS } = process.env
const SECONDS = Number(CHAOS_SECONDS ?? 5)
const SESSIONS = 50

describe('a fleet with stock clients', () => {
  let fleet: Fleet

  afterEach(async () => {
    await fleet.stop()
  })

  async function chaos(disturb: () => Promise<void>): Promise<void> {
    const callers = await stockCallers(fleet, SESSIONS)
    const report = await underChaos(callers, disturb)
    await Promise.all(callers.map((caller) => caller.close()))
    const { p99Ms, maxMs } = expectNoFault(report)
    expect(maxMs).toBeLessThan(2000)
    // Not in some seconds: one pause of the machine would weigh as much as all kills.
    if (CHAOS_SECONDS !== undefined) expect(p99Ms).toBeLessThan(500)
  }

  it('loses and doubles nothing while an instance is killed every second', async () => {
    fleet = await startFleet()
    await chaos(() => everySecond(SECONDS, () => killAny(fleet)))
  })

  it('nor with the stick table cleared every second as well', async () => {
    fleet = await startFleet()
    await chaos(() =>
      everySecond(SECONDS, () => {
        killAny(fleet)
        return fleet.admin('clear table mcp')
      }),
    )
  })

  it('nor without a stick table, each call on the next instance', async () => {
    fleet = await startFleet({ HAPROXY_CONFIG: withoutAffinity() })
    await chaos(() => everySecond(SECONDS, () => killAny(fleet)))
  })

  it('fails no call and no stream while its instances are replaced one by one', async () => {
    fleet = await startFleet()
    const streams = await streamingLoad(fleet, 6)
    await chaos(async () => {
      for (const index of fleet.map().instances.keys()) await replace(fleet, index)
    })
    expect(await streams.stop()).toEqual([])
  })

  it('fails no call and no stream while HAProxy is reloaded six times', async () => {
    fleet = await startFleet()
    const streams = await streamingLoad(fleet, 6)
    await chaos(async () => {
      for (let reload = 0; reload < 6; reload++) {
        await pause(1000)
        await reloadHaproxy(fleet)
      }
      await pause(1000)
    })
    expect(await streams.stop()).toEqual([])
    // It was handed over each time: what a new process learns by itself would be as good.
    expect(await fleet.admin('show table mcp')).toMatch(/used:5[0-9]/)
  })
})

/** Stops an instance as a deploy does, and waits until another process serves in its place. */
async function replace(fleet: Fleet, index: number): Promise<void> {
  const old = fleet.map().instances[index]?.pid ?? 0
  process.kill(old, 'SIGTERM')
  const ready = async (): Promise<boolean> => {
    const { url, pid } = fleet.map().instances[index] ?? {}
    if (pid === old || pid === null) return false
    return fetch(`${url}/ready`).then(
      ({ ok }) => ok,
      () => false,
    )
  }
  await until(ready, (isReady) => isReady)
}

/** Has HAProxy read its configuration again, and waits until the process that does so serves. */
async function reloadHaproxy(fleet: Fleet): Promise<void> {
  const worker = async (): Promise<string | undefined> => {
    const info = await fleet.admin('show info').catch(() => '')
    return /^Pid: (\d+)/m.exec(info)?.[1]
  }
  const old = await worker()
  process.kill(fleet.map().haproxy.pid ?? 0, 'SIGUSR2')
  await until(worker, (pid) => pid !== undefined && pid !== old)
}
