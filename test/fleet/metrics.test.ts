import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { requireProgram } from '../../haproxy-compat/programs.ts'
import { fetchFrom, startFleet, type Fleet } from '../support/fleet.ts'
import {
  callTool,
  endSession,
  openSession,
  post,
  rpc,
  send,
  toolCall,
  until,
  type Fetch,
} from '../support/mcp.ts'
import { freePort } from '../support/ports.ts'

interface Prometheus {
  /** The value of an expression that has one. */
  readonly ask: (expression: string) => Promise<number>
  /** By the value of `label`. */
  readonly askBy: (label: string, expression: string) => Promise<Record<string, number>>
  /** The names of all metrics that it has. */
  readonly names: () => Promise<readonly string[]>
  /** Resolves when all that was so at its call has been read. */
  readonly caughtUp: () => Promise<void>
  readonly stop: () => Promise<void>
}

describe('Prometheus', () => {
  let fleet: Fleet
  let prometheus: Prometheus
  /** Requests that HAProxy was sent. */
  let sent = 0
  const counted: Fetch = (request) => {
    sent++
    return fleet.fetch(request)
  }

  beforeAll(async () => {
    requireProgram('prometheus')
    fleet = await startFleet()
    await fleet.allAre('UP')
    prometheus = await startPrometheus(fleet)
  })
  afterAll(async () => {
    await prometheus?.stop()
    await fleet?.stop()
  })

  it('is told of each call once, whichever instance it was', async () => {
    const requests = 'sum(haproxy_frontend_http_requests_total{proxy="http"})'
    const before = await prometheus.ask(requests)
    const sessions = await Promise.all(Array.from({ length: 4 }, () => openSession(counted)))
    for (const session of sessions) {
      for (let n = 0; n < 5; n++) await callTool(counted, session, 'increment_counter')
      for (let n = 0; n < 3; n++) await callTool(counted, session, 'get_counter')
      // What is no tool's, and what is no tool.
      await rpc(counted, session, { jsonrpc: '2.0', id: 1, method: 'ping' })
      await rpc(counted, session, toolCall(`no_such_tool_${session}`))
      await rpc(counted, session, { jsonrpc: '2.0', id: 2, method: `no/such/${session}` })
    }
    await prometheus.caughtUp()
    const calls = 'sum by (tool, outcome, method) (holdfast_calls_total)'
    expect(await prometheus.askBy('tool', `sum by (tool) (${calls})`)).toEqual({
      increment_counter: 20,
      get_counter: 12,
      // initialize, ping, no_such_tool, no/such
      '': 16,
    })
    expect(await prometheus.askBy('outcome', `sum by (outcome) (${calls})`)).toEqual({
      ok: 40,
      invalid_params: 4,
      method_not_found: 4,
    })
    expect(await prometheus.askBy('method', `sum by (method) (${calls})`)).toEqual({
      initialize: 4,
      ping: 4,
      'tools/call': 36,
      other: 4,
    })
    expect(await prometheus.ask('sum(holdfast_call_duration_seconds_count)')).toBe(48)
    expect(await prometheus.ask('sum(holdfast_sessions_opened_total)')).toBe(4)
    expect(await prometheus.ask('sum(holdfast_sessions_live)')).toBe(4)
    // To begin a session is one, and each increment.
    expect(await prometheus.ask('sum(holdfast_commits_total)')).toBe(24)
    expect(await prometheus.ask(requests)).toBe(before + sent)
  })

  it('is told of what is sent again, refused, restored and ended', async () => {
    const session = await openSession(counted)
    for (let n = 0; n < 3; n++) {
      const headers = { 'mcp-session-id': session, 'idempotency-key': 'once' }
      await (await counted(post(JSON.stringify(toolCall('increment_counter')), headers))).text()
    }
    const { instance, counter } = await callTool(counted, session, 'get_counter')
    expect(counter).toBe(1)
    const other = fleet.map().instances.find(({ id }) => id !== instance)
    await callTool(fetchFrom(other?.url ?? ''), session, 'increment_counter')

    await (await send(counted, 'made-up', toolCall('get_counter'))).text()
    await (await counted(post('no JSON', { 'mcp-session-id': session }))).text()
    await endSession(counted, session)
    await prometheus.caughtUp()
    expect(await prometheus.ask('sum(holdfast_commits_total)')).toBe(27)
    expect(await prometheus.ask('sum(holdfast_replays_total)')).toBe(2)
    expect(await prometheus.ask('sum(holdfast_restores_total)')).toBe(1)
    expect(await prometheus.ask('sum(holdfast_restore_duration_seconds_count)')).toBe(1)
    expect(await prometheus.askBy('why', 'sum by (why) (holdfast_sessions_ended_total)')).toEqual({
      deleted: 1,
    })
    expect(await prometheus.askBy('why', 'sum by (why) (holdfast_refusals_total)')).toEqual({
      session_not_found: 1,
      parse_error: 1,
    })
  })

  it('sees streams open and close', async () => {
    const session = await openSession(counted)
    const headers = { 'mcp-session-id': session, accept: 'text/event-stream' }
    const stream = await fetch(fleet.url, { headers })
    expect(stream.status).toBe(200)
    const open = (): Promise<number> => prometheus.ask('sum(holdfast_streams_open)')
    await until(open, (number) => number === 1)
    await stream.body?.cancel()
    await until(open, (number) => number === 0)
  })

  it('understands all that is asked in the Grafana file and in the alerts worth having', async () => {
    const alerts = alertExpressions()
    expect(alerts).toHaveLength(9)
    const names = await prometheus.names()
    for (const expression of [...grafanaExpressions(), ...alerts]) {
      // Not one fails; it may have nothing to tell yet.
      await prometheus.askBy('instance', expression)
      const ofHaproxy = expression.match(/\bhaproxy_\w+/g) ?? []
      expect(names).toEqual(expect.arrayContaining(ofHaproxy))
    }
  })
})

function alertExpressions(): readonly string[] {
  const rows = readFileSync('docs/monitoring.md', 'utf8').matchAll(/^\| [\w ]+ \| `(.+)` \| /gm)
  return Array.from(rows, ([, expression = '']) => expression)
}

function grafanaExpressions(): readonly string[] {
  const { panels } = JSON.parse(readFileSync('docs/grafana.json', 'utf8')) as {
    panels: { targets?: { expr: string }[] }[]
  }
  return panels
    .flatMap(({ targets = [] }) => targets.map(({ expr }) => expr))
    .map((expr) => expr.replaceAll('$__rate_interval', '1m').replaceAll('$job', '.*'))
}

/** One that reads all instances and HAProxy each second. */
async function startPrometheus(fleet: Fleet): Promise<Prometheus> {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-prometheus-'))
  const { instances, haproxy } = fleet.map()
  const hostOf = (url: string): string => new URL(url).host.replace('localhost', '127.0.0.1')
  const job = (name: string, urls: readonly string[]) => ({
    job_name: name,
    static_configs: [{ targets: urls.map(hostOf) }],
  })
  const config = {
    global: { scrape_interval: '1s', scrape_timeout: '1s' },
    scrape_configs: [
      job(
        'holdfast',
        instances.map(({ url }) => url),
      ),
      job('haproxy', [haproxy.statsUrl]),
    ],
  }
  // YAML is JSON as well.
  writeFileSync(join(folder, 'prometheus.yml'), JSON.stringify(config))
  const address = `127.0.0.1:${await freePort()}`
  const child = spawn(
    'prometheus',
    [
      `--config.file=${join(folder, 'prometheus.yml')}`,
      `--storage.tsdb.path=${join(folder, 'data')}`,
      `--web.listen-address=${address}`,
    ],
    { stdio: 'ignore' },
  )
  const exited = once(child, 'exit')

  interface Answer {
    readonly status: string
    readonly error?: string
    readonly data: { readonly result: Result[] }
  }
  interface Result {
    readonly metric: Record<string, string>
    readonly value: [number, string]
  }
  const query = async (expression: string): Promise<Result[]> => {
    const url = `http://${address}/api/v1/query?query=${encodeURIComponent(expression)}`
    const answer = (await (await fetch(url)).json()) as Answer
    if (answer.status === 'success') return answer.data.result
    throw new Error(`${expression}: ${answer.error}`)
  }
  const ask = async (expression: string): Promise<number> => {
    const [result] = await query(expression)
    return Number(result?.value[1])
  }
  const ready = (): Promise<boolean> =>
    fetch(`http://${address}/-/ready`).then(
      ({ ok }) => ok,
      () => false,
    )
  await until(ready, Boolean)
  await until(
    () => ask('sum(up)'),
    (up) => up === instances.length + 1,
  )

  return {
    ask,
    async askBy(label, expression) {
      const results = await query(expression)
      return Object.fromEntries(
        results.map(({ metric, value }) => [metric[label] ?? '', Number(value[1])]),
      )
    },
    async names() {
      const response = await fetch(`http://${address}/api/v1/label/__name__/values`)
      return ((await response.json()) as { data: string[] }).data
    },
    async caughtUp() {
      const now = Date.now() / 1000
      // A reading that failed has its time as well.
      const oldest = (): Promise<number> => ask('min(timestamp(up)) unless min(up) == 0')
      await until(oldest, (time) => time > now)
    },
    async stop() {
      child.kill('SIGKILL')
      await exited
      rmSync(folder, { recursive: true, force: true })
    },
  }
}
