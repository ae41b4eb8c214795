import { readdirSync, readFileSync } from 'node:fs'

/** What a process holds. */
export interface Footprint {
  readonly pid: number
  readonly files: number
  readonly residentMb: number
}

/** Of processes and of those they have started themselves: HAProxy is a master with a worker. */
export function footprintsOf(pids: readonly (number | null)[]): Footprint[] {
  return pids.flatMap((pid) => (pid === null ? [] : [pid, ...childrenOf(pid)])).flatMap(footprintOf)
}

/** How much more each holds than it did. */
export function growthOf(before: readonly Footprint[], after: readonly Footprint[]): Footprint[] {
  return after.map(({ pid, files, residentMb }) => {
    const known = before.find((one) => one.pid === pid)
    const grownMb = residentMb - (known?.residentMb ?? 0)
    return { pid, files: files - (known?.files ?? 0), residentMb: Math.round(grownMb) }
  })
}

/** None of a process that has just ended: Redis has one at times to write its log anew. */
function footprintOf(pid: number): Footprint[] {
  try {
    const status = readFileSync(`/proc/${pid}/status`, 'utf8')
    const [, kilobytes] = /VmRSS:\s+(\d+) kB/.exec(status) ?? []
    if (kilobytes === undefined) return []
    const files = readdirSync(`/proc/${pid}/fd`).length
    return [{ pid, files, residentMb: Number(kilobytes) / 1000 }]
  } catch {
    return []
  }
}

function childrenOf(pid: number): number[] {
  const text = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8')
  return text
    .split(' ')
    .map(Number)
    .filter((child) => child > 0)
}

const ESTABLISHED = '01'

/** How many connections of these ports are open and have bytes that the other side has not taken. */
export function stuckOn(ports: readonly number[]): number {
  const lines = ['/proc/net/tcp', '/proc/net/tcp6'].flatMap((file) =>
    readFileSync(file, 'utf8').split('\n'),
  )
  return lines.filter((line) => {
    const [, local = '', , state, queues = ''] = line.trim().split(/\s+/)
    const isOurs = ports.includes(parseInt(local.split(':')[1] ?? '', 16))
    return isOurs && state === ESTABLISHED && parseInt(queues.split(':')[0] ?? '', 16) > 0
  }).length
}
