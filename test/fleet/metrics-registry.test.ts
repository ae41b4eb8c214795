import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { createMetrics } from '../../haproxy-compat/metrics.ts'
import type { LogEvent } from '../../mcp/log.ts'
import type { SessionId } from '../../mcp/session/ids.ts'

const busy = new Map([
  ['one' as SessionId, { streams: 2, running: 1 }],
  ['two' as SessionId, { streams: 1, running: 0 }],
])
const create = () =>
  createMetrics({
    instance: 'mcp-server-1',
    version: '1.2.3',
    activity: () => ({ held: 7, busy }),
    isDraining: () => true,
  })

describe('what Prometheus reads', () => {
  it('says how things are when it is asked', async () => {
    expect(await samplesOf(create())).toMatchObject({
      holdfast_sessions_live: 7,
      holdfast_streams_open: 3,
      holdfast_calls_running: 1,
      holdfast_draining: 1,
      'holdfast_info{name="mcp-server-1",version="1.2.3"}': 1,
    })
  })

  it('counts calls by what they came to, and how long they took', async () => {
    const metrics = create()
    const call = { kind: 'call', method: 'tools/call', tool: 'add_note' } as const
    for (const tookMs of [1, 1.5, 30_000]) metrics.meter({ ...call, outcome: 'ok', tookMs })
    metrics.meter({ ...call, outcome: 'tool_error', tookMs: 0 })
    const labels = 'method="tools/call",tool="add_note"'
    const samples = await samplesOf(metrics)
    expect(samples).toMatchObject({
      [`holdfast_calls_total{${labels},outcome="ok"}`]: 3,
      [`holdfast_calls_total{${labels},outcome="tool_error"}`]: 1,
      'holdfast_call_duration_seconds_bucket{le="0.001",tool="add_note"}': 2,
      'holdfast_call_duration_seconds_bucket{le="10",tool="add_note"}': 3,
      'holdfast_call_duration_seconds_count{tool="add_note"}': 4,
    })
    // Asking changes nothing.
    expect(await samplesOf(metrics)).toMatchObject(onlyCalls(samples))
  })

  it('counts what is put on record, and puts it there', async () => {
    const metrics = create()
    const events: LogEvent[] = [
      { event: 'session_restored', session: 's', version: 1, tookMs: 3 },
      { event: 'session_ended', session: 's', why: 'deleted' },
      { event: 'limit_hit', why: 'overloaded' },
      { event: 'request_refused', why: 'unauthorized' },
      { event: 'operator_drained', target: 'mcp-server-1', principal: 'p' },
      { event: 'started', auth: 'none' },
    ]
    const logged: LogEvent[] = []
    const log = metrics.counted((event) => void logged.push(event))
    for (const event of events) log(event)
    expect(logged).toEqual(events)
    expect(await samplesOf(metrics)).toMatchObject({
      holdfast_restores_total: 1,
      holdfast_restore_duration_seconds_count: 1,
      'holdfast_restore_duration_seconds_bucket{le="0.005"}': 1,
      'holdfast_sessions_ended_total{why="deleted"}': 1,
      'holdfast_refusals_total{why="overloaded"}': 1,
      'holdfast_refusals_total{why="unauthorized"}': 1,
      'holdfast_operator_actions_total{action="drain"}': 1,
    })
  })

  it('does not grow with what clients make up', async () => {
    const metrics = create()
    const log = metrics.counted(() => undefined)
    for (let n = 0; n < 10_000; n++) {
      metrics.meter({ kind: 'call', method: `made/up/${n}`, outcome: `made_up_${n}`, tookMs: 1 })
      log({ event: 'request_refused', why: `made_up_${n}` })
    }
    const { text } = await metrics.text()
    expect(text.split('\n').length).toBeLessThan(500)
    expect(text).not.toContain('made/up')
    expect(text).toContain('holdfast_calls_total{method="other",tool="",outcome="other"} 9936')
  })
})

describe('docs/monitoring.md', () => {
  const docs = readFileSync('docs/monitoring.md', 'utf8')
  const firstCells = (section: string): string[] => {
    const [, text = ''] = docs.split(`\n## ${section}\n`)
    const [part = ''] = text.split('\n## ')
    return Array.from(part.matchAll(/^\| `(\w+)` \|/gm), ([, name = '']) => name)
  }

  it('has a row for each metric', async () => {
    const { text } = await create().text()
    const there = Array.from(text.matchAll(/^# TYPE (holdfast_\w+) /gm), ([, name = '']) => name)
    expect(firstCells('Metrics').toSorted()).toEqual(there.toSorted())
    const named = docs.match(/\bholdfast_[a-z_]+/g) ?? []
    expect(named.filter((name) => !there.includes(name.replace(/_bucket$/, '')))).toEqual([])
  })

  it('has a row for each event of the log', () => {
    const source = readFileSync('mcp/log.ts', 'utf8')
    const named = source.matchAll(/event: ((?:'\w+'(?: \| )?)+)/g)
    const events = Array.from(named, ([, all = '']) => all.replaceAll("'", '').split(' | ')).flat()
    expect(firstCells('Logs').toSorted()).toEqual(events.toSorted())
  })

  it('has a Grafana file with a panel for each metric, and for none that is not there', async () => {
    const { text } = await create().text()
    const there = new Set(Array.from(text.matchAll(/^# TYPE (\w+) /gm), ([, name = '']) => name))
    const used = readFileSync('docs/grafana.json', 'utf8').match(
      /\b(?:holdfast|process|nodejs)_\w+/g,
    )
    const names = new Set(used?.map((name) => name.replace(/_bucket$/, '')))
    expect([...names].filter((name) => !there.has(name))).toEqual([])
    expect(firstCells('Metrics').filter((name) => !names.has(name))).toEqual([])
  })
})

type Samples = Readonly<Record<string, number>>

async function samplesOf({ text }: ReturnType<typeof create>): Promise<Samples> {
  const lines = (await text()).text.split('\n').filter((line) => /^\w/.test(line))
  return Object.fromEntries(
    lines.map((line) => [
      line.slice(0, line.lastIndexOf(' ')),
      Number(line.slice(line.lastIndexOf(' '))),
    ]),
  )
}

function onlyCalls(samples: Samples): Samples {
  return Object.fromEntries(Object.entries(samples).filter(([name]) => name.includes('_call')))
}
