/**
 * Does the fleet keep anything of what is over? For SOAK_MINUTES (20) sessions are created, used and
 * ended, 300 requests a second, a third of them left to expire. Each process is looked at every five
 * seconds; in the end, once all has expired, Redis must be as empty as it was.
 *
 *   [SOAK_MINUTES=20] npm run soak
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { startFleet } from '../test/support/fleet.ts'
import type { Fetch } from '../test/support/mcp.ts'
import { liveThrough } from './abuse-session.ts'
import {
  holdingsOf,
  openOperator,
  withFleet,
  type Holdings,
  type Store,
} from './abuse-processes.ts'
import { median, round } from './figures.ts'

const MINUTES = Number(process.env['SOAK_MINUTES'] ?? 20)
const REQUESTS_PER_SECOND = 300
// A session takes about two seconds, most of them for its analysis, and 18 requests.
const WORKERS = 60
const SAMPLE_MS = 5000
const TTL_SECONDS = 20
// A session is counted for a minute longer than it lives.
const EXPIRED_SECONDS = TTL_SECONDS + 60 + 15
const WANTED_MB_A_MINUTE = 0.5
const WANTED_FILES = 5
const SHOWN_ERRORS = 10
// There is nothing to learn from more.
const MOST_ERRORS = 1000

interface Sample {
  readonly minute: number
  readonly holdings: Holdings
  readonly keys: number
  readonly storeMb: number
}

interface Life {
  requests: number
  /** When the next request may be sent: all workers together keep to the rate. */
  nextAt: number
  sessions: number
  readonly errors: string[]
}

const fleet = await startFleet({
  SESSION_TTL_SECONDS: String(TTL_SECONDS),
  LIVE_IDLE_SECONDS: '10',
  MAX_SESSIONS_PER_CALLER: '1000000',
  SESSIONS_PER_MINUTE: '1000000',
})
await withFleet(fleet, soak)

async function soak(): Promise<void> {
  const store = await openOperator(fleet)
  const begun = performance.now()
  const look = () => sample(store, begun)
  const baseline = await look()
  const samples: Sample[] = []
  const life: Life = { requests: 0, nextAt: 0, sessions: 0, errors: [] }

  const until = begun + MINUTES * 60_000
  const running = Promise.all(Array.from({ length: WORKERS }, (_, at) => work(life, at, until)))
  while (performance.now() < until && life.errors.length < MOST_ERRORS) {
    await sleep(SAMPLE_MS)
    samples.push(await look())
    tell(life, samples)
  }
  await running
  await sleep(EXPIRED_SECONDS * 1000)
  const end = await look()
  const left = await store.names()
  store.close()
  judge(life, { baseline, samples, end, left })
}

async function sample(store: Store, begun: number): Promise<Sample> {
  const { keys, megabytes: storeMb } = await store.read()
  const minute = (performance.now() - begun) / 60_000
  return { minute, holdings: holdingsOf(fleet), keys, storeMb }
}

/** One session after the other. */
async function work(life: Life, at: number, until: number): Promise<void> {
  const fetch = paced(life)
  for (let turn = at; performance.now() < until && life.errors.length < MOST_ERRORS; turn++) {
    const end = turn % 3 === 0 ? 'left' : 'deleted'
    try {
      await liveThrough(fetch, end)
    } catch (error) {
      life.errors.push(String(error))
    }
    life.sessions++
  }
}

function paced(life: Life): Fetch {
  return async (request) => {
    life.nextAt = Math.max(life.nextAt, performance.now()) + 1000 / REQUESTS_PER_SECOND
    await sleep(Math.max(0, life.nextAt - performance.now()))
    life.requests++
    return fleet.fetch(request)
  }
}

function tell({ requests, sessions, errors }: Life, samples: readonly Sample[]): void {
  const now = samples.at(-1)
  if (now === undefined || samples.length % 12 !== 0) return
  const rate = Math.round(requests / (now.minute * 60))
  const resident = Object.entries(now.holdings).map(
    ([name, { residentMb }]) => `${name} ${Math.round(residentMb)}`,
  )
  console.log(
    `${round(now.minute)} min: ${rate} req/s, ${sessions} sessions, ${errors.length} errors; MB: ${resident.join(', ')}; Redis: ${now.keys} keys, ${round(now.storeMb)} MB used`,
  )
}

interface Seen {
  readonly baseline: Sample
  readonly samples: readonly Sample[]
  readonly end: Sample
  /** The kinds of keys that are left. */
  readonly left: readonly string[]
}

function judge({ requests, sessions, errors }: Life, { baseline, samples, end, left }: Seen): void {
  const late = samples.slice(Math.floor(samples.length / 2))
  const rows = Object.entries(baseline.holdings).map(([name, first]) => {
    const own = late.map(({ minute, holdings }) => ({ minute, ...holdings[name] }))
    const mb = own.map(({ residentMb = Number.NaN }) => residentMb)
    const files = own.map(({ files: count = Number.NaN }) => count)
    const quarter = Math.ceil(files.length / 4)
    return [
      name,
      {
        'MB at first': round(first.residentMb),
        'median MB': round(median(mb)),
        'MB/min': round(slopeOf(own.map(({ minute }, at) => [minute, mb[at] ?? Number.NaN]))),
        'files at first': first.files,
        'median files': median(files),
        'files grown': median(files.slice(-quarter)) - median(files.slice(0, quarter)),
        'files at last': end.holdings[name]?.files,
      },
    ] as const
  })
  console.log(`${requests} requests of ${sessions} sessions; of the second half:`)
  console.table(Object.fromEntries(rows))
  const steep = rows.filter(([, row]) => !(row['MB/min'] < WANTED_MB_A_MINUTE))
  const leaking = rows.filter(([, row]) => !(Math.abs(row['files grown']) <= WANTED_FILES))
  console.log(
    `Grows by ${WANTED_MB_A_MINUTE} MB a minute or more (wanted: none): ${namesOf(steep)}`,
  )
  console.log(`Files not level within ${WANTED_FILES} (wanted: none): ${namesOf(leaking)}`)
  console.log(`Redis keys: ${baseline.keys} at first, ${end.keys} at last (wanted: the same)`)
  console.log(`Left: ${left.join(', ') || 'none'}`)
  console.log(`Redis memory: ${round(baseline.storeMb)} MB at first, ${round(end.storeMb)} at last`)
  console.log(`Errors: ${errors.length} (wanted: 0)`)
  for (const error of new Set(errors.slice(0, SHOWN_ERRORS))) console.log(`  ${error}`)
}

function namesOf(rows: readonly (readonly [string, unknown])[]): string {
  return rows.map(([name]) => name).join(', ') || 'none'
}

/** Least squares: how much the second value of each pair grows with the first. */
function slopeOf(points: readonly (readonly [number, number])[]): number {
  const mean = (place: 0 | 1): number =>
    points.reduce((sum, point) => sum + point[place], 0) / points.length
  const [x, y] = [mean(0), mean(1)]
  const above = points.reduce((sum, point) => sum + (point[0] - x) * (point[1] - y), 0)
  const below = points.reduce((sum, point) => sum + (point[0] - x) ** 2, 0)
  return above / below
}
