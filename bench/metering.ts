/** What it costs to count a call: `npm run bench:metering`. */
import { createMetrics } from '../haproxy-compat/metrics.ts'

const CALLS = 1_000_000
const activity = () => ({ held: 0, busy: new Map<never, never>() })
const options = { instance: 'bench', version: '0', activity, isDraining: () => false }
const { meter } = createMetrics(options)

const call = {
  kind: 'call',
  method: 'tools/call',
  tool: 'add_note',
  outcome: 'ok',
  tookMs: 3,
} as const
for (const round of ['warm-up', 'measured']) {
  const began = process.cpuUsage()
  for (let n = 0; n < CALLS; n++) {
    meter(call)
    meter({ kind: 'committed' })
  }
  const { user, system } = process.cpuUsage(began)
  console.log(
    `${round}: ${((user + system) / CALLS).toFixed(2)} µs of CPU for a call and its commit`,
  )
}
