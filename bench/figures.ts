/** What both benches do with their numbers. */
import { readFileSync } from 'node:fs'

/** User and system time of a process so far, in steps of 10 ms. */
export function cpuSeconds(pid: number): number {
  const [, rest = ''] = /\) (.*)/s.exec(readFileSync(`/proc/${pid}/stat`, 'utf8')) ?? []
  const [user = 0, system = 0] = rest.split(' ').slice(11, 13).map(Number)
  return (user + system) / 100
}

export function percentile(values: readonly number[], percent: number): number {
  const sorted = values.toSorted((a, b) => a - b)
  return (
    sorted[Math.min(sorted.length - 1, Math.floor((sorted.length * percent) / 100))] ?? Number.NaN
  )
}

export function median(values: readonly number[]): number {
  return percentile(values, 50)
}

export function ratio(value: number, base: number | undefined): number {
  return base === undefined ? Number.NaN : round(value / base)
}

export function round(value: number): number {
  return Math.round(value * 100) / 100
}

export function shuffled<T>(values: readonly T[]): T[] {
  return values
    .map((value) => ({ value, place: Math.random() }))
    .toSorted((a, b) => a.place - b.place)
    .map(({ value }) => value)
}
