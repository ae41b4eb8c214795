/** docs/cost.md computes right, from what was measured. */
import { readFileSync } from 'node:fs'
import { expect, it } from 'vitest'

const doc = read('docs/cost.md')
const MILLION = 1_000_000
const GB_AWAKE = 0.125
const DAYS = 30
const HOURS = DAYS * 24
/** Of what a core can do, what is planned for. */
const BUSY = 0.5

const prices = table('what is billed').map(([, dollars]) => number(dollars))
const events = table('what happens').map(([name = '', ...cells]) => {
  const [worker = 0, object = 0, rows = 0, cpuMs = 0, awake = 0, dollars = 0] = cells.map(number)
  return { name, rows, dollars, used: [worker, object, rows, cpuMs, awake * GB_AWAKE] }
})
const takes = table('what').map(([, amount]) => number(amount?.split(' ')[0]))

it('what happens on the edge costs what is used of it', () => {
  expect(events).toHaveLength(8)
  for (const { used, dollars } of events) {
    expect(dollars).toBe(rounded(costOf(used), 2))
  }
})

it('each month on the edge is the sum of what happens in it', () => {
  const [session, change, reading, late, analysis, streamHour] = events.map(({ used }) =>
    costOf(used),
  )
  const source = read('durable-objects/session-index.ts')
  const [, shards] = /SHARDS = (\d+)/.exec(source) ?? []
  const [, writeMs] = /WRITE_MS = ([\d_]+)/.exec(source) ?? []
  // A put and an alarm each time.
  const rowsAMinute = (2 * 60_000) / Number(writeMs?.replace('_', ''))
  const index = costOf([0, 0, Number(shards) * HOURS * 60 * rowsAMinute, 0, 0]) / MILLION
  expect(doc).toContain(`$${rounded(index, 2)} a month`)
  const months = table('sessions a day')
  expect(months).toHaveLength(6)
  for (const month of months) {
    const [sessions = 0, changes = 0, reads = 0, streamed = 0, streams = 0, dollars] =
      month.map(number)
    const each =
      (session ?? 0) +
      changes * (change ?? 0) +
      reads * (reading ?? 0) +
      ((changes + reads) / 2) * (late ?? 0) +
      streamed * (analysis ?? 0)
    const sum = (sessions * DAYS * each + streams * HOURS * (streamHour ?? 0)) / MILLION + index
    expect(dollars).toBe(rounded(sum, 2))
  }
})

it('each fleet has what its calls, sessions and streams take', () => {
  const [instance = 0, haproxy = 0, redis = 0, sessionBytes = 0, streamKb = 0] = takes
  const fleets = table('calls a second')
  expect(fleets).toHaveLength(4)
  for (const fleet of fleets) {
    const [calls = 0, sessions = 0, streams = 0, ...rest] = fleet.map(number)
    const cores = [instance, haproxy, redis].map((ms) => rounded((calls * ms) / 1000 / BUSY, 2))
    const redisMb = rounded((sessions * sessionBytes) / MILLION, 1)
    expect(rest).toEqual([...cores, redisMb, rounded((streams * streamKb) / 1000, 1)])
  }
})

it('what is used is what was counted and measured', () => {
  const rowsOf = (name: string): number | undefined =>
    events.find((event) => event.name.startsWith(name))?.rows
  expect([rowsOf('a call that changes'), rowsOf('a call that only reads')]).toEqual([1, 0])
  const storage = read('docs/storage.md')
  expect(storage).toContain('| a call changes the state | 1 |')
  expect(storage).toContain('| a call only reads; `tools/list`, `ping`, a notification | 0,')
  const counted = read('test/edge/costs.test.ts')
  const [, rows, alarms] = /events: 8, rows: (\d+), alarms: (\d+)/.exec(counted) ?? []
  expect(rowsOf('`analyze_data`')).toBe(Number(rows) + Number(alarms))
  const measured = read('docs/measurements.md')
  expect(measured).toMatch(/\| 32 \| holdfast \|.*\| 0\.64 \|/)
  expect(measured).toMatch(/\| 48 \| holdfast \|(.*\|){3} 0\.14 \| 0\.04 \| 0\.02 \|/)
  expect(measured).toContain('| Redis, a session | 764 bytes |')
  expect(measured).toContain('| an open stream, instance and sockets | 23.9 kB |')
  expect(takes).toEqual([0.14, 0.04, 0.02, 764, 23.9])
})

/** $ for a million times what is used of each thing that is billed. */
function costOf(used: readonly number[]): number {
  return used.reduce((sum, amount, at) => sum + amount * (prices[at] ?? 0), 0)
}

/** The rows of the table whose first column is headed so. */
function table(head: string): string[][] {
  const lines = doc.split('\n')
  const start = lines.findIndex((line) => line.startsWith(`| ${head} |`)) + 2
  const rows = lines.slice(start)
  return rows
    .slice(0, rows.indexOf(''))
    .map((line) => line.split('|').slice(1, -1))
    .map((cells) => cells.map((cell) => cell.trim()))
}

function number(text = ''): number {
  return Number(text.replaceAll(',', ''))
}

function rounded(value: number, digits: number): number {
  return Number(value.toFixed(digits))
}

function read(file: string): string {
  return readFileSync(file, 'utf8')
}
