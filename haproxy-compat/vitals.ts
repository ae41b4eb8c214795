import { isErrorCode } from '../mcp/errors.ts'
import type { LogEvent } from '../mcp/log.ts'
import type { Measured } from '../mcp/meter.ts'
import { LATENCY_MS } from '../mcp/operator.ts'
import type { Activity } from '../mcp/session/onlooker.ts'
import type { InstanceReport } from './board-store.ts'

export interface Vitals {
  measured(measured: Measured): void
  logged(event: LogEvent): void
  /** How this process is. */
  read(activity: Activity): Omit<InstanceReport, 'state'>
}

/** What a process has come to since it began at `startedAt`. */
export function createVitals(startedAt: number): Vitals {
  const latencies = Array.from({ length: LATENCY_MS.length + 1 }, () => 0)
  const refusals: Record<string, number> = {}
  let [calls, errors] = [0, 0]
  let before = { at: process.hrtime.bigint(), used: process.cpuUsage() }

  function load(): number {
    const now = { at: process.hrtime.bigint(), used: process.cpuUsage() }
    const used = now.used.user + now.used.system - before.used.user - before.used.system
    const passed = Number(now.at - before.at) / 1000
    before = now
    return Math.round((100 * used) / passed) / 100
  }

  return {
    measured(measured) {
      if (measured.kind !== 'call') return
      const { outcome, tookMs } = measured
      calls++
      if (outcome !== 'ok' && outcome !== 'tool_error') errors++
      const place = LATENCY_MS.findIndex((bound) => tookMs <= bound)
      const bucket = place < 0 ? LATENCY_MS.length : place
      latencies[bucket] = (latencies[bucket] ?? 0) + 1
    },
    logged(event) {
      if (event.event !== 'request_refused' && event.event !== 'limit_hit') return
      // Some are in the SDK's own words.
      const why = isErrorCode(event.why) || event.why === 'unauthorized' ? event.why : 'other'
      refusals[why] = (refusals[why] ?? 0) + 1
    },
    read: ({ held, busy }) => ({
      startedAt,
      sessions: held,
      streams: sum(busy, 'streams'),
      running: sum(busy, 'running'),
      residentBytes: process.memoryUsage.rss(),
      load: load(),
      calls,
      errors,
      latencies: [...latencies],
      refusals: { ...refusals },
    }),
  }
}

function sum(busy: Activity['busy'], what: 'streams' | 'running'): number {
  let total = 0
  for (const one of busy.values()) total += one[what]
  return total
}
