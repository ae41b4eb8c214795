import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { request, type IncomingMessage } from 'node:http'
import { text } from 'node:stream/consumers'
import { promisify } from 'node:util'
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from 'vitest'
import { requireProgram } from '../../haproxy-compat/programs.ts'
import { parseConfig } from '../../mcp/config.ts'
import { fetchFrom, startFleet, type Fleet } from '../support/fleet.ts'
import { callTool, openSession, post, POST_HEADERS, send, toolCall } from '../support/mcp.ts'

const FILE = 'haproxy-compat/haproxy.cfg'
const INSTANCES = ['mcp-server-1', 'mcp-server-2', 'mcp-server-3']
// The names of containers only resolve where there are containers.
const SERVERS = { SERVER_1: '127.0.0.1:1', SERVER_2: '127.0.0.1:2', SERVER_3: '127.0.0.1:3' }

describe('haproxy.cfg', () => {
  it('is accepted without a warning', async () => {
    requireProgram('haproxy')
    const env = { ...process.env, ...SERVERS }
    const { stderr } = await promisify(execFile)('haproxy', ['-c', '-f', FILE], { env })
    expect(stderr).not.toMatch(/WARNING|ALERT/)
  })

  it('remembers where a session is for as long as one lives that is not used', () => {
    const [, minutes] = /^ *stick-table .* expire (\d+)m/m.exec(readFileSync(FILE, 'utf8')) ?? []
    expect(Number(minutes) * 60_000).toBe(parseConfig({}).ttlMs)
  })
})

describe('HAProxy', () => {
  let fleet: Fleet
  let session: string

  beforeAll(async () => {
    fleet = await startFleet()
    session = await openSession(fleet.fetch)
  })
  beforeEach(async () => {
    await fleet.allAre('UP')
  })
  afterAll(() => fleet.stop())

  it.each([
    ['mcp-session-id', () => [session, session]],
    ['mcp-session-id', () => [session, 'another']],
    ['mcp-param-session', () => [session, 'another']],
    ['idempotency-key', () => ['a', 'b']],
    ['mcp-protocol-version', () => ['2025-11-25', '2025-06-18']],
    ['last-event-id', () => ['a.1', 'b.1']],
    ['authorization', () => ['Bearer a', 'Bearer b']],
  ])('lets no request with two %s headers through to an instance', async (name, values) => {
    const before = await fleet.servers()
    const headers = { ...POST_HEADERS, 'mcp-session-id': session, [name]: values() }
    const response = await postRaw(headers, toolCall('increment_counter'))
    expect(response.statusCode).toBe(400)
    expect(response.headers['content-type']).toBe('application/json')
    expect(response.headers['cache-control']).toBe('no-store')
    expect(JSON.parse(await text(response))).toEqual({
      jsonrpc: '2.0',
      id: null,
      error: { code: -32_600, message: expect.any(String), data: { type: 'invalid_request' } },
    })
    expect(await fleet.servers()).toEqual(before)
  })

  it('names requests itself, whatever a client sends under that name', async () => {
    session = await openSession(fleet.fetch)
    const forged = { 'mcp-session-id': session, 'holdfast-request': 'forged' }
    const increment = () => post(JSON.stringify(toolCall('increment_counter')), forged)
    for (let n = 0; n < 2; n++) await (await fleet.fetch(increment())).text()
    expect(await callTool(fleet.fetch, session, 'get_counter')).toMatchObject({ counter: 2 })

    // Where nobody names it anew, the second one counts as the first one sent again.
    const [{ url } = { url: '' }] = fleet.map().instances
    for (let n = 0; n < 2; n++) await (await fetchFrom(url)(increment())).text()
    expect(await callTool(fleet.fetch, session, 'get_counter')).toMatchObject({ counter: 3 })
  })

  it('shows its statistics, as a page and for Prometheus', async () => {
    const { statsUrl } = fleet.map().haproxy
    const page = await fetch(statsUrl)
    expect(page.status).toBe(200)
    expect(await page.text()).toContain('mcp-server-3')
    const metrics = await fetch(new URL('/metrics', statsUrl))
    expect(metrics.status).toBe(200)
    expect(await metrics.text()).toMatch(/^haproxy_server_status\{.*server="mcp-server-3".*\} 1$/m)
  })

  it('says when to try again while there is no instance at all', async () => {
    // Nobody starts them again.
    fleet.signal('supervisor', 'SIGSTOP')
    for (const name of INSTANCES) fleet.signal(name, 'SIGKILL')
    onTestFinished(() => fleet.signal('supervisor', 'SIGCONT'))
    await fleet.allAre('DOWN')
    const response = await send(fleet.fetch, session, toolCall('increment_counter'))
    expect(response.status).toBe(503)
    expect(response.headers.get('retry-after')).toBe('1')
    expect(response.headers.get('cache-control')).toBe('no-store')
    expect(response.headers.get('content-type')).toBe('application/json')
    expect(await response.json()).toEqual({
      jsonrpc: '2.0',
      id: null,
      error: { code: -32_000, message: expect.any(String), data: { type: 'store_unavailable' } },
    })
  })

  it('sees within seconds that instances hang, and that they woke up', async () => {
    for (const name of INSTANCES) hang(name)
    await soon(() => fleet.allAre('DOWN'))
    for (const name of INSTANCES) fleet.signal(name, 'SIGCONT')
    await soon(() => fleet.allAre('UP'))
    await callTool(fleet.fetch, session, 'increment_counter')
  })

  it('sees within seconds that no instance reaches Redis, and that all do again', async () => {
    hang('redis')
    await soon(() => fleet.allAre('DOWN'))
    expect((await fetch(`${fleet.map().haproxy.url}/live`)).status).toBe(200)
    fleet.signal('redis', 'SIGCONT')
    await soon(() => fleet.allAre('UP'))
    await callTool(fleet.fetch, session, 'increment_counter')
  })

  // What hangs as Redis does fails by this time.
  const patience = { timeout: 15_000 }

  it('hears from the instances that they are not ready while Redis hangs', patience, async () => {
    hang('redis')
    const { haproxy, instances } = fleet.map()
    const ready = [haproxy, ...instances].map(({ url }) => fetch(`${url}/ready`))
    expect((await Promise.all(ready)).map(({ status }) => status)).toEqual([503, 503, 503, 503])
  })

  it('hands on that a call can not reach Redis, and when to try again', patience, async () => {
    hang('redis')
    const refused = await send(fleet.fetch, session, toolCall('increment_counter'))
    expect(refused.status).toBe(503)
    expect(refused.headers.get('retry-after')).toBe('1')
    expect(await refused.json()).toMatchObject({ error: { data: { type: 'store_unavailable' } } })
  })

  /** With headers as they are: `fetch` would join those of one name. */
  async function postRaw(
    headers: Record<string, string | string[]>,
    message: object,
  ): Promise<IncomingMessage> {
    const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>()
    const lines = Object.entries(headers).flatMap(([name, values]) =>
      [values].flat().flatMap((value) => [name, value]),
    )
    const body = JSON.stringify(message)
    const length = ['content-length', String(body.length)]
    const sent = request(fleet.url, { method: 'POST', headers: [...lines, ...length] }, resolve)
    sent.once('error', reject)
    sent.end(body)
    return promise
  }

  function hang(name: string): void {
    fleet.signal(name, 'SIGSTOP')
    onTestFinished(() => fleet.signal(name, 'SIGCONT'))
  }
})

/** HAProxy asks four times a second; the rest is for a machine that has more to do. */
async function soon(work: () => Promise<void>): Promise<void> {
  const began = performance.now()
  await work()
  expect(performance.now() - began).toBeLessThan(5000)
}
