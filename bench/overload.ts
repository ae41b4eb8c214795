/**
 * What becomes of a fleet that is asked for more than it can do? Finds its peak, then holds three times
 * as many clients against it as it takes on at once; those that are refused come back when they are told
 * to. Then three times as many calls a second as its peak, whatever becomes of them. Between the two, and
 * at the end, a normal load. Every counter is checked: what was refused must have had no effect.
 *
 *   npm run overload [-- --seconds 30 --requests 64 --clients 576]
 *
 * `--requests` is MAX_REQUESTS of each instance. Load and servers share a machine: "own delay" says how
 * late the load itself was, and all times contain it.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { callTool, openSession } from '../test/support/mcp.ts'
import { startFleet, type Fleet } from '../test/support/fleet.ts'
import { closedLoop, openLoop, rowOf, type Counted, type Outcome } from './abuse-load.ts'
import { holdingsOf, withFleet, type Holdings } from './abuse-processes.ts'
import { parseFlags } from './flags.ts'

const INSTANCES = 3
const TIMES = 3
const flags = parseFlags({ seconds: 30, requests: 64, clients: 0 })
const { seconds: SECONDS, requests: MAX_REQUESTS } = flags
const CLIENTS = flags.clients || TIMES * INSTANCES * MAX_REQUESTS
const WARM_UP_SECONDS = 10
const PEAK_SECONDS = 5
const NORMAL_SECONDS = 10
const OPEN_SECONDS = 10
const NORMAL_CLIENTS = 16
const PEAK_CLIENTS = [16, 32, 64, 128, 192].filter((count) => count <= MAX_REQUESTS * INSTANCES)
// What HAProxy lets one address have.
const MOST_CONNECTIONS = 1900

const fleet = await startFleet({
  MAX_REQUESTS: String(MAX_REQUESTS),
  MAX_SESSIONS_PER_CALLER: '1000000',
  SESSIONS_PER_MINUTE: '1000000',
  MAX_CONNECTIONS_PER_ADDRESS: String(Math.max(2000, CLIENTS + 200)),
})
await withFleet(fleet, run)

async function run(): Promise<void> {
  const sessions = await open(fleet, CLIENTS)
  const load = (seconds: number) => ({ url: fleet.url, sessions, seconds })
  await closedLoop(load(WARM_UP_SECONDS), NORMAL_CLIENTS)

  const rows: Record<string, ReturnType<typeof rowOf>> = {}
  const add = (name: string, outcome: Outcome): number => {
    rows[name] = rowOf(outcome)
    return rows[name]['served/s']
  }
  const rates: number[] = []
  for (const clients of PEAK_CLIENTS) {
    rates.push(add(`${clients} clients`, await closedLoop(load(PEAK_SECONDS), clients)))
  }
  const peak = Math.max(...rates)

  const memory: Record<string, Holdings> = { before: holdingsOf(fleet) }
  const overloaded = await during(memory, 'overload', () => closedLoop(load(SECONDS), CLIENTS))
  add(`${CLIENTS} clients`, overloaded)
  add('normal again', await closedLoop(load(NORMAL_SECONDS), NORMAL_CLIENTS))
  memory['after'] = holdingsOf(fleet)
  const arrivals = TIMES * peak
  const flooded = await during(memory, 'open loop', () =>
    openLoop(load(OPEN_SECONDS), arrivals, MOST_CONNECTIONS),
  )
  add(`${arrivals} a second`, flooded)
  add('normal at last', await closedLoop(load(NORMAL_SECONDS), NORMAL_CLIENTS))
  memory['at last'] = holdingsOf(fleet)

  console.log(`Peak ${peak} calls/s; MAX_REQUESTS ${MAX_REQUESTS}, ${INSTANCES} instances`)
  console.table(rows)
  console.log('Resident MB')
  console.table(Object.fromEntries(Object.entries(memory).map(([when, all]) => [when, mbOf(all)])))
  for (const [name, { statuses }] of Object.entries({ overloaded, flooded })) {
    console.log(`${name}: by status ${JSON.stringify(statuses)}`)
  }
  judge(peak, rowOf(overloaded), await wrongCounters(sessions))
}

function judge(peak: number, row: ReturnType<typeof rowOf>, wrong: readonly string[]): void {
  const goodput = Math.round((row['served/s'] * 100) / peak)
  console.log(`Goodput ${goodput} % of the peak (wanted: 80 or more)`)
  console.log(`Refusals: p99 ${row['refused p99 ms']} ms (wanted: below 100)`)
  console.log(`Refusals that do not say when to come back: ${row['no Retry-After']} (wanted: 0)`)
  console.log(`Counters that are off: ${wrong.length} (wanted: 0) ${wrong.slice(0, 5).join('; ')}`)
}

async function open({ fetch }: Fleet, count: number): Promise<readonly Counted[]> {
  const sessions: Counted[] = []
  const openSome = async (): Promise<void> => {
    while (sessions.length < count) {
      sessions.push({ id: await openSession(fetch), answered: 0, lost: 0 })
    }
  }
  await Promise.all(Array.from({ length: 8 }, openSome))
  return sessions
}

/** The most that each process has held meanwhile. */
async function during<T>(
  memory: Record<string, Holdings>,
  name: string,
  act: () => Promise<T>,
): Promise<T> {
  const over = new AbortController()
  const watching = (async () => {
    while (!over.signal.aborted) {
      memory[name] = most(memory[name] ?? {}, holdingsOf(fleet))
      await sleep(500, undefined, { signal: over.signal }).catch(() => undefined)
    }
  })()
  try {
    return await act()
  } finally {
    over.abort()
    await watching
  }
}

function most(known: Holdings, now: Holdings): Holdings {
  return Object.fromEntries(
    Object.entries(now).map(([name, holding]) => {
      const isMore = holding.residentMb > (known[name]?.residentMb ?? 0)
      return [name, isMore ? holding : (known[name] ?? holding)]
    }),
  )
}

function mbOf(holdings: Holdings): Record<string, number> {
  return Object.fromEntries(
    Object.entries(holdings).map(([name, { residentMb }]) => [name, Math.round(residentMb)]),
  )
}

async function wrongCounters(sessions: readonly Counted[]): Promise<readonly string[]> {
  const wrong: string[] = []
  for (const { id, answered, lost } of sessions) {
    const { counter } = await callTool(fleet.fetch, id, 'get_counter')
    const isRight = Number(counter) >= answered && Number(counter) <= answered + lost
    if (!isRight) wrong.push(`${String(counter)} instead of ${answered} (${lost} unknown)`)
  }
  return wrong
}
