import { createServer } from 'node:net'

// Below those that connections get, which come and go: one may be taken again in no time.
const [FIRST, LAST] = [10_000, 32_000]
// No fewer than vitest has workers: each draws from a part of its own, as none knows what another
// was given.
const PARTS = 4
const [first, last] = partOf(process.env['VITEST_POOL_ID'])
const given = new Set<number>()

export async function freePort(): Promise<number> {
  return freeBase([0])
}

/** A port that is free with each of `offsets` added to it. Each is given once. */
export async function freeBase(offsets: readonly number[]): Promise<number> {
  const many = last - first - Math.max(...offsets)
  for (;;) {
    const base = first + Math.floor(Math.random() * many)
    const ports = offsets.map((offset) => base + offset)
    if (ports.some((port) => given.has(port))) continue
    for (const port of ports) given.add(port)
    if ((await Promise.all(ports.map(isFree))).every(Boolean)) return base
  }
}

/** True if a server can listen there. */
export async function isFree(port: number): Promise<boolean> {
  const server = createServer()
  const { promise, resolve } = Promise.withResolvers<boolean>()
  server.once('error', () => resolve(false))
  server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)))
  return promise
}

/** Of a worker by its number from 1; all there are where there is none. */
function partOf(worker: string | undefined): readonly [number, number] {
  if (worker === undefined) return [FIRST, LAST]
  const size = (LAST - FIRST) / PARTS
  const start = FIRST + (Number(worker) % PARTS) * size
  return [start, start + size]
}
