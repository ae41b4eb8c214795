import { listDurableObjectIds, runDurableObjectAlarm, runInDurableObject } from 'cloudflare:test'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { shardOf } from '../../durable-objects/session-index.ts'
import type { Report } from '../../durable-objects/shard.ts'
import type { SessionName } from '../../mcp/operator.ts'
import type { SessionId } from '../../mcp/session/ids.ts'
import {
  callTool,
  collect,
  openSession,
  post,
  readEvents,
  rpc,
  send,
  toolCall,
  until,
} from '../support/mcp.ts'
import { edgeFetch as fetch, objectOf, places, rowsOf, SESSION_OBJECTS } from './support.ts'

afterEach(() => vi.restoreAllMocks())

describe('what a session costs', () => {
  it('is one row and one alarm to begin', async () => {
    const written = await countWrites()
    const session = await openSession(fetch)
    expect(written()).toEqual({ rows: 1, alarms: 1 })
    expect(await rowsOf(session)).toEqual(['session'])
    // What it tells of itself is no write of the next test's.
    const shard = shardOf(places, session as SessionId)
    await until(
      () => shard.page(),
      ({ total }) => total === 1,
    )
  })

  it('is a row in the index when it tells of itself, and there a row each ten seconds for all', async () => {
    // None that a session has just told of itself.
    const shard = places.index('shard-of-this-test')
    const written = await countWrites(SHARD)
    await shard.tell(report(0))
    // The alarm is for the end of the last session.
    expect(written()).toEqual({ rows: 1, alarms: 1 })
    for (let n = 1; n < 100; n++) await shard.tell(report(n))
    expect(written()).toEqual({ rows: 1, alarms: 2 })
    const now = Date.now()
    vi.spyOn(Date, 'now').mockImplementation(() => now + 10_000)
    await shard.tell(report(100))
    expect(written()).toEqual({ rows: 2, alarms: 2 })
    expect((await shard.page()).total).toBe(101)
  })

  it('is one row a change and none a read', async () => {
    const session = await openSession(fetch)
    const alarmOf = (): Promise<number | null> =>
      runInDurableObject(objectOf(session), (_object, { storage }) => storage.getAlarm())
    const alarm = await alarmOf()
    const written = await countWrites()
    await callTool(fetch, session, 'increment_counter')
    await callTool(fetch, session, 'add_note', { note: 'n' })
    expect(written().rows).toBe(2)
    for (const name of ['get_counter', 'list_notes', 'get_status', 'get_server_info']) {
      await callTool(fetch, session, name)
    }
    await rpc(fetch, session, { jsonrpc: '2.0', id: 1, method: 'ping' })
    await rpc(fetch, session, { jsonrpc: '2.0', id: 1, method: 'tools/list' })
    expect(written().rows).toBe(2)
    expect(await alarmOf()).toBe(alarm)
  })

  it('is two rows for the first thing a call says, one for each further, and an alarm', async () => {
    const session = await openSession(fetch)
    const written = await countWrites()
    const call = toolCall('analyze_data', { num_items: 3 })
    const events = await collect(readEvents(await send(fetch, session, call)))
    const { rows, alarms } = written()
    console.log(`analyze_data of 3: ${events.length - 1} events, ${rows} rows, ${alarms} alarms`)
    // Seven messages and a reply; five sleeps, which are written too; and the change, with its row.
    expect({ events: events.length - 1, rows, alarms }).toEqual({ events: 8, rows: 16, alarms: 1 })
    expect(await rowsOf(session)).toHaveLength(2)
    // Due in five seconds, it would be counted by a test that comes later.
    await runDurableObjectAlarm(objectOf(session))
  })

  it('is an alarm every five seconds while a call runs, and one when none does any more', async () => {
    const session = await openSession(fetch)
    const dueIn = (): Promise<number> =>
      runInDurableObject(objectOf(session), async (_object, { storage }) => {
        return Number(await storage.getAlarm()) - Date.now()
      })
    const idle = await dueIn()
    const call = toolCall('watch_counter', { duration_seconds: 1 })
    const stream = readEvents(await send(fetch, session, call))
    await stream.next()
    expect(await dueIn()).toBeLessThanOrEqual(5000)
    expect(await runDurableObjectAlarm(objectOf(session))).toBe(true)
    expect(await dueIn()).toBeLessThanOrEqual(5000)
    await collect(stream)
    const written = await countWrites()
    expect(await runDurableObjectAlarm(objectOf(session))).toBe(true)
    expect(written()).toEqual({ rows: 0, alarms: 1 })
    expect(Math.abs((await dueIn()) - idle)).toBeLessThan(5000)
  })

  it('is nothing for ids that were not minted here', async () => {
    const session = await openSession(fetch)
    await callTool(fetch, session, 'increment_counter')
    const before = await objects()
    const text = JSON.stringify(toolCall('increment_counter'))
    const statuses = new Set<number>()
    for (const id of forgedIds(session, 2000)) {
      const response = await fetch(post(text, { 'mcp-session-id': id }))
      await response.text()
      statuses.add(response.status)
    }
    expect([...statuses]).toEqual([404])
    expect(await objects()).toEqual(before)
    expect(await callTool(fetch, session, 'get_counter')).toMatchObject({ counter: 1 })
  }, 30_000)

  it('is nothing for requests that begin no session', async () => {
    const before = await objects()
    for (const body of [JSON.stringify(toolCall('get_counter')), '{', '[]']) {
      await (await fetch(post(body))).text()
    }
    expect(await objects()).toEqual(before)
  })
})

const SESSION = /^session$|^stream\//
const SHARD = /^shard$/

/**
 * Counts what all objects write from now on of which the keys are `these`: a put and a delete are a
 * row each, so is an alarm.
 */
async function countWrites(these = SESSION): Promise<() => { rows: number; alarms: number }> {
  const written = { rows: 0, alarms: 0 }
  const any = SESSION_OBJECTS.get(SESSION_OBJECTS.newUniqueId())
  await runInDurableObject(any, (_object, { storage }) => {
    const isOne = (key: unknown): boolean => these.test(String(key))
    const countRow = (_kv: unknown, key: unknown): unknown => isOne(key) && written.rows++
    count(Object.getPrototypeOf(storage.kv), 'put', countRow)
    count(Object.getPrototypeOf(storage.kv), 'delete', countRow)
    count(Object.getPrototypeOf(storage), 'setAlarm', (of) => {
      const keys = [...(of as DurableObjectStorage).kv.list()].map(([key]) => key)
      if (keys.some(isOne)) written.alarms++
    })
  })
  return () => ({ ...written })
}

function count(
  owner: Record<string, Function>,
  name: string,
  counted: (of: unknown, first: unknown) => void,
): void {
  const original = owner[name]
  owner[name] = function counting(this: unknown, ...args: unknown[]) {
    counted(this, args[0])
    return original?.apply(this, args)
  }
}

function report(n: number): Report {
  const now = Date.now()
  const times = { openedAt: now, usedAt: now, expiresAt: now + 60_000 }
  const who = { principal: 'p', client: 'test 0', revision: '2025-11-25', holder: 'object-1' }
  const view = { name: `${n}` as SessionName, id: `${n}`, ...who, ...times }
  const activity = { calls: 1, streams: 0, running: 0 }
  return {
    session: `${n}` as SessionId,
    hasState: true,
    view: { ...view, ...activity },
    failovers: [],
  }
}

async function objects(): Promise<string[]> {
  return (await listDurableObjectIds(SESSION_OBJECTS)).map(String).toSorted()
}

function* forgedIds(session: string, howMany: number): Generator<string> {
  for (let n = 0; n < howMany; n++) {
    const bytes = crypto.getRandomValues(new Uint8Array(32))
    const random = [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('')
    const at = n % 64
    const flipped = (parseInt(session.charAt(at), 16) ^ (1 << (n % 4))).toString(16)
    yield n % 2 === 0 ? random : `${session.slice(0, at)}${flipped}${session.slice(at + 1)}`
  }
}
