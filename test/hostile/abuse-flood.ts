import { Agent, request } from 'node:http'
import { initialize, POST_HEADERS } from '../support/mcp.ts'
import { percentile } from '../support/percentile.ts'

export interface Opening {
  readonly status: number
  readonly retryAfter: string | undefined
  readonly tookMs: number
}

const BATCH_EVERY_MS = 100

/** Asks for so many new sessions within so many seconds, from one address of this machine. */
export async function floodFrom(
  localAddress: string,
  url: string,
  { count, seconds }: { count: number; seconds: number },
): Promise<readonly Opening[]> {
  const agent = new Agent({ keepAlive: true, maxSockets: 64, localAddress })
  const perBatch = Math.ceil((count * BATCH_EVERY_MS) / (seconds * 1000))
  const asked: Promise<Opening>[] = []
  while (asked.length < count) {
    const size = Math.min(perBatch, count - asked.length)
    asked.push(...Array.from({ length: size }, () => openFrom(agent, url)))
    await new Promise((resolve) => setTimeout(resolve, BATCH_EVERY_MS))
  }
  return Promise.all(asked).finally(() => agent.destroy())
}

export function figuresOf(openings: readonly Opening[]) {
  const took = (status: number): number[] =>
    openings.filter((one) => one.status === status).map(({ tookMs }) => tookMs)
  const p99 = (times: readonly number[]): number => Math.round(percentile(times, 99))
  const [admitted, refused] = [took(200), took(429)]
  return {
    admitted: admitted.length,
    refused: refused.length,
    others: openings.length - admitted.length - refused.length,
    admittedP99Ms: p99(admitted),
    refusedP99Ms: p99(refused),
  }
}

function openFrom(agent: Agent, url: string): Promise<Opening> {
  const { promise, resolve, reject } = Promise.withResolvers<Opening>()
  const began = performance.now()
  const { host: _, ...headers } = POST_HEADERS
  const asked = request(url, { method: 'POST', agent, headers }, (response) => {
    response.resume()
    response.once('end', () => {
      const { statusCode: status = 0, headers: told } = response
      resolve({ status, retryAfter: told['retry-after'], tookMs: performance.now() - began })
    })
  })
  asked.once('error', reject).end(JSON.stringify(initialize))
  return promise
}
