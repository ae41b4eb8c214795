/**
 * What does a call cost in the revision without sessions? The same sessions of one Node instance over
 * Redis, called by their id and by their handle, in one run, interleaved in random order.
 *
 *   npm run bench:revisions [-- --seconds 3 --rounds 7]
 */
import { percentile } from '../test/support/percentile.ts'
import { median, ratio, round, shuffled } from './figures.ts'
import { parseFlags } from './flags.ts'
import { call, callByHandle, checkCounters, closeConnections, load, openSession } from './load.ts'
import { INSTANCE, startStack, stopStacks, type Started } from './stack.ts'

const { seconds: SECONDS, rounds: ROUNDS } = parseFlags({ seconds: 3, rounds: 7 })
const SESSIONS = 16

const { alone } = await startStack({ program: INSTANCE, redisArgs: [] })
const [instance] = alone.instances
if (instance === undefined) throw new Error('Cannot measure: no instance was started')
const running = []
for (const [name, ask] of [
  ['2025-11-25', call],
  ['2026-07-28', callByHandle],
] as const) {
  const ids = await Promise.all(Array.from({ length: SESSIONS }, () => openSession(alone.url)))
  const sessions = ids.map((id) => ({ id, calls: 0 }))
  running.push({ name, call: ask, url: alone.url, sessions, cpuMs: [], latencies: [], rates: [] })
}
type Running = Omit<(typeof running)[number], 'cpuMs' | 'latencies' | 'rates'> &
  Record<'cpuMs' | 'latencies' | 'rates', number[]>

const connections = SESSIONS
for (const target of running) await load(target, { connections, seconds: 2 })
for (let turn = 0; turn < ROUNDS; turn++) {
  for (const target of shuffled<Running>(running)) await measure(target, instance)
}
for (const target of running) await checkCounters(target)
print(running)
closeConnections()
await stopStacks()

async function measure(target: Running, measured: Started): Promise<void> {
  const before = measured.cpuSeconds()
  const { latencies, tookSeconds } = await load(target, { connections, seconds: SECONDS })
  target.cpuMs.push(((measured.cpuSeconds() - before) * 1000) / latencies.length)
  target.rates.push(latencies.length / tookSeconds)
  target.latencies.push(...latencies)
}

function print([first, ...others]: readonly Running[]): void {
  const base = first && median(first.cpuMs)
  console.log(
    `\n${connections} connections, one Node instance over Redis, ${ROUNDS} rounds of ${SECONDS} s`,
  )
  console.table(
    Object.fromEntries(
      [first, ...others].flatMap((target) => {
        if (target === undefined) return []
        const figures = {
          'CPU ms/call': round(median(target.cpuMs)),
          'CPU : 2025-11-25': ratio(median(target.cpuMs), base),
          'req/s': Math.round(median(target.rates)),
          'p50 ms': round(percentile(target.latencies, 50)),
          'p99 ms': round(percentile(target.latencies, 99)),
        }
        return [[target.name, figures]]
      }),
    ),
  )
}
