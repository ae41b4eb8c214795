import { evictDurableObject, runDurableObjectAlarm, runInDurableObject } from 'cloudflare:test'
import { afterAll, describe, expect, it, vi } from 'vitest'
import { placesOf } from '../../durable-objects/places.ts'
import { countSessions, shardOf } from '../../durable-objects/session-index.ts'
import { nameOf, type Happening, type Overview } from '../../mcp/operator.ts'
import type { SessionId } from '../../mcp/session/ids.ts'
import { BASE, callTool, openSession, readEvents, until } from '../support/mcp.ts'
import { NAMES_TO_CUT } from '../support/operator.ts'
import { bindings, edgeFetch as fetch, evict, places } from './support.ts'

const MINUTE_MS = 60_000
// How often an index writes down what it is told.
const WRITE_MS = 10_000

vi.setConfig({ testTimeout: 20_000 })

// Not after each: for objects that remember it, time must not go back.
afterAll(() => vi.restoreAllMocks())

describe('operators of the edge', () => {
  it('see a session as soon as it is open, and nothing of it that is secret', async () => {
    const session = await openSession(fetch)
    const view = await viewOf(session)
    expect(view).toMatchObject({
      id: session.slice(0, 8),
      client: 'test 0',
      revision: '2025-11-25',
      holder: expect.stringMatching(/^object-/),
      streams: 0,
      running: 0,
    })
    const { openedAt, usedAt, expiresAt } = view
    expect(usedAt - openedAt).toBeLessThan(MINUTE_MS)
    expect(expiresAt).toBe(usedAt + 31 * MINUTE_MS)
    const told = await Promise.all(
      ['/admin/overview', `/admin/sessions/${view.name}`, '/metrics'].map(textOf),
    )
    expect(told.join()).not.toContain(session.slice(0, 9))
  })

  it.each(NAMES_TO_CUT)('see a client whose name is cut, or no text: %j', async (name, shown) => {
    const session = await openSession(fetch, { name, version: '1' })
    expect((await viewOf(session)).client).toBe(shown)
  })

  it('see its calls within a minute of use, and those with state are counted apart', async () => {
    const session = await openSession(fetch)
    const { calls, usedAt } = await viewOf(session)
    const withState = await countSessions(places)
    for (let n = 0; n < 3; n++) await callTool(fetch, session, 'get_counter')
    expect(await viewOf(session)).toMatchObject({ calls, usedAt })
    later(MINUTE_MS)
    await callTool(fetch, session, 'increment_counter')
    await until(
      () => viewOf(session),
      (view) => view.calls === calls + 4 && view.usedAt >= usedAt + MINUTE_MS,
    )
    expect(await countSessions(places)).toBe(withState + 1)
    expect(await textOf('/metrics')).toMatch(/^holdfast_calls_total\{shard="\d+"\} [1-9]/m)
  })

  it('see as much when the index was evicted right after it was told', async () => {
    later(WRITE_MS)
    const session = await openSession(fetch)
    await viewOf(session)
    await evictDurableObject(shardOf(places, session as SessionId))
    expect((await viewOf(session)).id).toBe(session.slice(0, 8))
  })

  it('see as much when the index was let go that was told twice in a row', async () => {
    later(WRITE_MS)
    const session = await openSession(fetch)
    await evict(session)
    const { instance } = await callTool(fetch, session, 'get_counter')
    const index = shardOf(places, session as SessionId)
    await until(
      () => index.page(),
      ({ latest }) => latest.some(({ holder }) => holder === instance),
    )
    const alarm = await runInDurableObject(index, (_index, { storage }) => storage.getAlarm())
    expect(alarm).toBeLessThanOrEqual(Date.now() + WRITE_MS)
    expect(await runDurableObjectAlarm(index)).toBe(true)
    await evictDurableObject(index)
    expect((await viewOf(session)).holder).toBe(instance)
  })

  it('see what goes on in another object', async () => {
    const session = await openSession(fetch)
    const { holder: from } = await viewOf(session)
    await evict(session)
    const { instance } = await callTool(fetch, session, 'get_counter')
    const id = session.slice(0, 8)
    const { failovers } = await until(overview, (all) => all.failovers.some((one) => one.id === id))
    expect(failovers.find((one) => one.id === id)).toMatchObject({
      kind: 'restored',
      from,
      instance,
      tookMs: expect.any(Number),
    })
    expect((await viewOf(session)).holder).toBe(instance)
  })

  it('end a session by its name', async () => {
    const session = await openSession(fetch)
    const { name } = await viewOf(session)
    const before = await overview()
    const end = (): Promise<Response> => ask(`/admin/sessions/${name}`, { method: 'DELETE' })
    expect((await end()).status).toBe(204)
    await expect(callTool(fetch, session, 'get_counter')).rejects.toThrow('session_not_found')
    const after = await overview()
    expect(after.sessions.total).toBe(before.sessions.total - 1)
    expect(after.sessions.latest.map((view) => view.name)).not.toContain(name)
    expect((await end()).status).toBe(404)
  })

  it('follow what happens in a session until it ends', async () => {
    const session = await openSession(fetch)
    const { name } = await viewOf(session)
    const response = await ask(`/admin/sessions/${name}/events`)
    const events = readEvents(response)
    const next = async (): Promise<Happening> => {
      for (;;) {
        const { value } = await events.next()
        if (value?.data) return JSON.parse(value.data) as Happening
      }
    }
    later(MINUTE_MS)
    await callTool(fetch, session, 'increment_counter')
    expect(await next()).toMatchObject({ kind: 'changed', version: 1 })
    // Who follows it so is none of its clients.
    const view = await until(
      () => viewOf(session),
      ({ calls }) => calls > 0,
    )
    expect(view.streams).toBe(0)
    await evict(session)
    await callTool(fetch, session, 'increment_counter')
    expect(await next()).toMatchObject({ kind: 'changed', version: 2 })
    expect((await ask(`/admin/sessions/${name}`, { method: 'DELETE' })).status).toBe(204)
    expect(await next()).toMatchObject({ kind: 'ended' })
    expect((await events.next()).done).toBe(true)
    expect((await ask(`/admin/sessions/${name}/events`)).status).toBe(404)
  })

  it('follow a session without using it', async () => {
    const session = await openSession(fetch)
    const { name } = await viewOf(session)
    later(29 * MINUTE_MS)
    const response = await ask(`/admin/sessions/${name}/events`)
    expect(response.status).toBe(200)
    later(3 * MINUTE_MS)
    await expect(callTool(fetch, session, 'get_counter')).rejects.toThrow('session_not_found')
    await response.body?.cancel()
  })

  it('are whoever is on this machine, as long as nobody needs a token', async () => {
    expect((await ask('/admin/overview')).status).toBe(200)
    const elsewhere = { headers: { 'cf-connecting-ip': '192.0.2.1' } }
    expect((await ask('/admin/overview', elsewhere)).status).toBe(403)
    const deployed = new Request('https://holdfast.example.workers.dev/admin/overview', {
      headers: { host: 'holdfast.example.workers.dev' },
    })
    expect((await fetch(deployed)).status).toBe(403)
  })

  it('have a page, and no say in which instances there are', async () => {
    const page = await ask('/dashboard')
    expect(page.headers.get('content-security-policy')).toContain("default-src 'none'")
    expect(await page.text()).toContain('<!doctype html>')
    expect((await ask('/admin/instances/worker/drain', { method: 'POST' })).status).toBe(501)
  })
})

describe('where sessions live', () => {
  it('is a jurisdiction, if one is set, which workerd on this machine has not', () => {
    const inEurope = placesOf(Object.assign({ JURISDICTION: 'eu' }, bindings))
    expect(() => inEurope.newSession()).toThrow('Jurisdiction restrictions are not implemented')
    expect(() => inEurope.index('shard-0')).toThrow('Jurisdiction restrictions are not implemented')
  })

  it('is where the setting hints at, also for the index', async () => {
    const hints: unknown[] = []
    const recorded = <T extends object>(objects: T): T =>
      new Proxy(objects, {
        get:
          (target, method) =>
          (...args: unknown[]) => {
            if (method === 'get' || method === 'getByName') hints.push(args[1])
            return (Reflect.get(target, method) as Function).apply(target, args)
          },
      })
    const { SESSION_OBJECTS, INDEX } = bindings
    const objects = { SESSION_OBJECTS: recorded(SESSION_OBJECTS), INDEX: recorded(INDEX) }
    const inEurope = placesOf(Object.assign({ LOCATION_HINT: 'weur' }, objects))
    await inEurope.session(inEurope.newSession()).endAnyones()
    await inEurope.index('shard-0').count()
    expect(hints).toEqual([{ locationHint: 'weur' }, { locationHint: 'weur' }])
  })

  it.each([{ JURISDICTION: 'mars' }, { LOCATION_HINT: 'europe' }])(
    'is not what nobody knows: %o',
    (setting) => {
      const [name = ''] = Object.keys(setting)
      expect(() => placesOf({ ...bindings, ...setting })).toThrow(name)
    },
  )
})

function ask(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers)
  headers.set('host', 'localhost')
  return fetch(new Request(`${BASE}${path}`, { ...init, headers }))
}

async function textOf(path: string): Promise<string> {
  return (await ask(path)).text()
}

/** What is seen when what was seen before is not good any more. */
async function overview(): Promise<Overview> {
  later(5000)
  return JSON.parse(await textOf('/admin/overview')) as Overview
}

async function viewOf(session: string) {
  const name = await nameOf(session as SessionId)
  const find = async () => (await overview()).sessions.latest.find((view) => view.name === name)
  const found = await until(find, (view) => view !== undefined)
  if (found === undefined) throw new Error('The session is not seen')
  return found
}

/** Has the clock of all objects go on. */
function later(ms: number): void {
  ahead += ms
  if (!vi.isMockFunction(Date.now)) vi.spyOn(Date, 'now').mockImplementation(() => now() + ahead)
}

const now = Date.now.bind(Date)
let ahead = 0
