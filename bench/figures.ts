/** What the benches do with their numbers. */
import { readFileSync } from 'node:fs'
import { percentile } from '../test/support/percentile.ts'

/** User and system time of a process so far, in steps of 10 ms. */
export function cpuSeconds(pid: number): number {
  const [, rest = ''] = /\) (.*)/s.exec(readFileSync(`/proc/${pid}/stat`, 'utf8')) ?? []
  const [user = 0, system = 0] = rest.split(' ').slice(11, 13).map(Number)
  return (user + system) / 100
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
