/**
 * Instances die, drain and are cut off under load from clients that do nothing about it. `npm run chaos`
 * takes a minute for each of these, `npm test` a few seconds.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, describe, expect, it } from 'vitest'
import { percentile, stockCallers, underChaos, type Report } from '../support/chaos.ts'
import { startFleet, type Fleet } from '../support/fleet.ts'

const SECONDS = Number(process.env['CHAOS_SECONDS'] ?? 8)
const SESSIONS = 50

describe('a fleet with stock clients', () => {
  let fleet: Fleet

  afterEach(async () => {
    await fleet.stop()
  })

  const chaos = async (disturb: () => Promise<void>, everyMs = 1000): Promise<Report> => {
    const callers = await stockCallers(fleet, SESSIONS)
    const report = await underChaos({ callers, seconds: SECONDS, disturb, everyMs })
    await Promise.all(callers.map((caller) => caller.close()))
    const { calls, longest } = report
    const [p99, max] = [percentile(longest, 99), Math.max(...longest)].map(Math.round)
    console.log(`${calls} calls; longest of a session: p99 ${p99} ms, max ${max} ms`)
    expect(report.errors).toEqual({})
    expect(report.faults).toEqual([])
    return report
  }

  it('loses and doubles nothing while an instance is killed every second', async () => {
    fleet = await startFleet()
    await chaos(async () => killAny(fleet))
  })

  it('nor with the stick table cleared every second as well', async () => {
    fleet = await startFleet()
    await chaos(async () => {
      killAny(fleet)
      await fleet.admin('clear table mcp')
    })
  })

  it('nor with no stick table at all, each call on the next instance', async () => {
    fleet = await startFleet({ HAPROXY_CONFIG: withoutAffinity() })
    await chaos(async () => killAny(fleet))
  })
})

/** Kills one of the instances that run. */
function killAny(fleet: Fleet): void {
  const pids = fleet.map().instances.flatMap(({ pid }) => pid ?? [])
  const pid = pids[Math.floor(Math.random() * pids.length)]
  if (pid !== undefined) process.kill(pid, 'SIGKILL')
}

function withoutAffinity(): string {
  const text = readFileSync('haproxy-compat/haproxy.cfg', 'utf8')
  const file = join(process.env['TMPDIR'] ?? '/tmp', `haproxy-${process.pid}.cfg`)
  const kept = text.split('\n').filter((line) => !/^ *stick/.test(line))
  writeFileSync(file, kept.join('\n').replaceAll('balance leastconn', 'balance roundrobin'))
  return file
}
