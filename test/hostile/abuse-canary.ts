import { setTimeout as sleep } from 'node:timers/promises'
import { callTool, openSession, type Fetch } from '../support/mcp.ts'
import { percentile } from '../support/percentile.ts'

const EVERY_MS = 100

/** What a client that behaves has seen: what was not right, and how long its calls took in ms. */
interface Sight {
  readonly faults: readonly string[]
  readonly tookMs: readonly number[]
}

export interface Canary {
  readonly stop: () => Promise<Sight>
}

/** Clients with a session each that call every so often until they are told to stop. */
export async function startCanaries(fetch: Fetch, count: number): Promise<Canary> {
  const all = await Promise.all(Array.from({ length: count }, () => startCanary(fetch)))
  return {
    async stop() {
      const seen = await Promise.all(all.map((one) => one.stop()))
      return {
        faults: seen.flatMap(({ faults }) => faults),
        tookMs: seen.flatMap(({ tookMs }) => tookMs),
      }
    },
  }
}

/** One of them: it knows what each answer must be. */
async function startCanary(fetch: Fetch): Promise<Canary> {
  const session = await openSession(fetch)
  const faults: string[] = []
  const tookMs: number[] = []
  let calls = 0
  const over = new AbortController()

  async function call(): Promise<void> {
    const began = performance.now()
    const wanted = ++calls
    const { counter } = await callTool(fetch, session, 'increment_counter')
    tookMs.push(performance.now() - began)
    if (counter !== wanted) faults.push(`${wanted} was answered with ${String(counter)}`)
  }

  async function run(): Promise<void> {
    while (!over.signal.aborted) {
      const next = sleep(EVERY_MS, undefined, { signal: over.signal }).catch(() => undefined)
      await call().catch((error: unknown) => faults.push(String(error)))
      await next
    }
  }

  const running = run()
  return {
    async stop() {
      over.abort()
      await running
      return { faults, tookMs }
    },
  }
}

export function timesOf(tookMs: readonly number[]): { p50: number; p99: number; max: number } {
  const [p50 = 0, p99 = 0, max = 0] = [50, 99, 100].map((rank) =>
    Math.round(percentile(tookMs, rank)),
  )
  return { p50, p99, max }
}
