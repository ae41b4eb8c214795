/** How nginx finds a session's instance, and what comes of it when that is gone. */
import {
  afterAll,
  afterEach,
  beforeAll,
  beforeEach,
  describe,
  expect,
  it,
  onTestFinished,
} from 'vitest'
import { ResilientClient } from '../../client/resilient-client.ts'
import { get } from '../support/client.ts'
import { startFleet, type Fleet } from '../support/fleet.ts'
import { callTool, openSession, send, toolCall, until, type Fetch } from '../support/mcp.ts'
import { startNginx, type Door, type Nginx } from '../support/nginx.ts'
import { openHandle, runTool } from '../support/stateless.ts'

// Enough for a door that picks by chance to have picked two instances, for certain.
const MANY = 20

let fleet: Fleet
let nginx: Nginx

beforeAll(async () => {
  // More often than a stream may be silent at the nginx of these tests.
  fleet = await startFleet({ KEEP_ALIVE_SECONDS: '0.2' })
})
beforeEach(() => fleet.allAre('UP'))
afterEach(() => nginx.stop())
afterAll(() => fleet.stop())

describe('behind nginx', () => {
  it('the hash of a session finds its instance, whatever the revision', async () => {
    nginx = await before('by-session')
    const handle = await openHandle(nginx.fetch)
    const instances = new Set<unknown>()
    for (let n = 1; n <= 10; n++) {
      const { counter, instance } = await runTool(nginx.fetch, 'increment_counter', {
        session: handle,
      })
      expect(counter).toBe(n)
      instances.add(instance)
    }
    instances.add((await callTool(nginx.fetch, handle, 'get_counter'))['instance'])
    expect(instances.size).toBe(1)
  })

  it('a client that keeps its cookie stays with its instance, until that is gone', async () => {
    nginx = await before('by-cookie')
    const client = nginx.withCookies()
    const sessions = [await openSession(client), await openSession(client)]
    const holders = await Promise.all(sessions.map((session) => holdersOf(client, session)))
    expect(holders[0]?.size).toBe(1)
    expect(holders[1]).toEqual(holders[0])
    const [holder] = holders[0] ?? []
    fleet.signal(String(holder), 'SIGKILL')
    for (const session of sessions) {
      const { counter, instance } = await callTool(client, session, 'increment_counter')
      expect(counter).toBe(MANY + 1)
      expect(instance).not.toBe(holder)
    }
  })

  it('a client without cookies is spread, and served as right', async () => {
    nginx = await before('by-cookie')
    const session = await openSession(nginx.fetch)
    expect((await holdersOf(nginx.fetch, session)).size).toBeGreaterThan(1)
  })

  it('a quiet stream stays open past the read timeout, and what is said comes at once', async () => {
    nginx = await before('in-turn', (config) =>
      config.replace('proxy_read_timeout 60s', 'proxy_read_timeout 2s'),
    )
    const session = await openSession(nginx.fetch)
    const uri = `resource://session/${session}/summary`
    const subscribe = { jsonrpc: '2.0', id: 1, method: 'resources/subscribe', params: { uri } }
    await (await send(nginx.fetch, session, subscribe)).text()
    const heard = heardOn(await nginx.fetch(get(session)))
    // Three seconds, of which nginx waits for two.
    await until(heard, (text) => text.split(': keep-alive').length > 15)
    await callTool(nginx.fetch, session, 'increment_counter')
    await until(heard, (text) => text.includes(uri))
  })

  it('no instance is waited for when none is there: 503, which the resilient client waits out', async () => {
    nginx = await before('in-turn')
    const session = await openSession(nginx.fetch)
    const client = new ResilientClient(
      { name: 'test', version: '0' },
      { urls: nginx.url, deadlineMs: 60_000 },
    )
    await client.connect()
    onTestFinished(() => client.close())
    for (const { pid } of fleet.map().instances) process.kill(pid ?? 0, 'SIGKILL')
    const [stock, resilient] = await Promise.all([
      send(nginx.fetch, session, toolCall('increment_counter')),
      client.callTool({ name: 'increment_counter', arguments: {} }),
    ])
    expect(stock.status).toBe(503)
    expect(stock.headers.get('retry-after')).toBe('1')
    expect(await stock.json()).toMatchObject({ error: { data: { type: 'store_unavailable' } } })
    expect(resilient.structuredContent).toMatchObject({ counter: 1 })
    expect(await callTool(nginx.fetch, session, 'increment_counter')).toMatchObject({ counter: 1 })
  })
})

function before(door: Door, change?: (config: string) => string): Promise<Nginx> {
  const servers = fleet.map().instances.map(({ url }) => url)
  return startNginx(door, servers, change)
}

/** The instances that serve many increments, which are answered right. */
async function holdersOf(client: Fetch, session: string): Promise<Set<unknown>> {
  const instances = new Set<unknown>()
  for (let n = 1; n <= MANY; n++) {
    const { counter, instance } = await callTool(client, session, 'increment_counter')
    expect(counter).toBe(n)
    instances.add(instance)
  }
  return instances
}

/** Answers all that a stream has brought, once it brings more. */
function heardOn(response: Response): () => Promise<string> {
  const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader()
  // It may be broken by then: nginx goes first.
  onTestFinished(() => reader?.cancel().catch(() => undefined))
  let text = ''
  return async () => {
    const { value } = (await reader?.read()) ?? {}
    if (value === undefined) throw new Error(`The stream has ended: ${text}`)
    return (text += value)
  }
}
