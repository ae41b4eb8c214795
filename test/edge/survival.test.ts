import { runDurableObjectAlarm, runInDurableObject } from 'cloudflare:test'
import { describe, expect, it, vi } from 'vitest'
import {
  BASE,
  callTool,
  collect,
  openSession,
  POST_HEADERS,
  readEvents,
  rpc,
  send,
  toolCall,
  until,
  type RpcReply,
  type SseEvent,
} from '../support/mcp.ts'
import { edgeFetch, evict, evictClosing, listen, objectOf, reset, rowsOf } from './support.ts'

const fetch = edgeFetch

vi.setConfig({ testTimeout: 20_000 })

describe('a session on the edge', () => {
  it.each([
    ['evicted', evict],
    ['reset', reset],
  ])('goes on under its id when its object is %s between calls', async (_what, kill) => {
    const session = await openSession(fetch)
    await rpc(fetch, session, setLevel('error'))
    const instances = new Set<unknown>()
    for (let round = 1; round <= 10; round++) {
      const result = await callTool(fetch, session, 'increment_counter')
      expect(result['counter']).toBe(round)
      instances.add(result['instance'])
      await kill(session)
    }
    expect(instances.size).toBe(10)
    const events = await eventsOf(session, toolCall('analyze_data', { num_items: 0 }))
    // Priming and result: the log level was kept, so that nothing was logged.
    expect(events).toHaveLength(2)
  })

  it('loses no acknowledged write and doubles none while its object is reset under load', async () => {
    const session = await openSession(fetch)
    const counters: unknown[] = []
    let calls = 0
    let resets = 0
    await Promise.all(
      Array.from({ length: 8 }, async () => {
        while (calls < 1000) {
          calls++
          counters.push((await callTool(fetch, session, 'increment_counter'))['counter'])
          if (counters.length < 50 * (resets + 1)) continue
          resets++
          await reset(session)
        }
      }),
    )
    expect(resets).toBeGreaterThan(10)
    expect((await callTool(fetch, session, 'get_counter'))['counter']).toBe(calls)
    expect(new Set(counters).size).toBe(calls)
  }, 60_000)

  it('keeps the client capabilities over a reset', async () => {
    const session = await openSession(fetch)
    await reset(session)
    await callTool(fetch, session, 'get_counter')
    const record = await runInDurableObject(objectOf(session), (_object, { storage }) =>
      JSON.parse(String(storage.kv.get('session'))),
    )
    expect(record.initialize.capabilities).toEqual({ elicitation: {} })
  })

  it.each([
    ['hibernates', evict],
    ['is evicted with its sockets closed', evictClosing],
    ['is reset', reset],
  ])('holds a GET stream open while its object %s', async (_what, kill) => {
    const session = await openSession(fetch)
    const uri = `resource://session/${session}/summary`
    const params = { uri }
    await rpc(fetch, session, { jsonrpc: '2.0', id: 1, method: 'resources/subscribe', params })
    const stream = readEvents(await listen(session))
    const seen = [((await stream.next()).value as SseEvent).id]
    for (let round = 0; round < 5; round++) {
      await callTool(fetch, session, 'increment_counter')
      seen.push(((await stream.next()).value as SseEvent).id)
      await kill(session)
    }
    expect(seen.map((id) => Number(id.split('.')[1]))).toEqual([0, 1, 2, 3, 4, 5])
    await stream.return(undefined)
  })

  it('replays a finished stream after a reset', async () => {
    const session = await openSession(fetch)
    const events = await eventsOf(session, toolCall('analyze_data', { num_items: 1 }))
    await reset(session)
    const replayed = await collect(readEvents(await listen(session, events[0]?.id)))
    expect(replayed.slice(1)).toEqual(events.slice(1))
  })

  it('expires when unused for its time to live, and not while a stream is open', async () => {
    const session = await openSession(fetch)
    await callTool(fetch, session, 'increment_counter')
    const stream = readEvents(await listen(session))
    await stream.next()
    await age(session)
    expect(await runDurableObjectAlarm(objectOf(session))).toBe(true)
    expect(await callTool(fetch, session, 'get_counter')).toMatchObject({ counter: 1 })

    await stream.return(undefined)
    await until(
      () => runInDurableObject(objectOf(session), (_o, state) => state.getWebSockets().length),
      (open) => open === 0,
    )
    await age(session)
    expect(await runDurableObjectAlarm(objectOf(session))).toBe(true)
    const response = await send(fetch, session, toolCall('get_counter'))
    expect(response.status).toBe(404)
    const body: RpcReply = await response.json()
    expect(body.error?.message).toBe('Session not found')
    expect(await rowsOf(session)).toEqual([])
  })

  it('is gone to its clients when its alarm is late', async () => {
    const session = await openSession(fetch)
    await age(session)
    expect((await send(fetch, session, toolCall('get_counter'))).status).toBe(404)
  })

  it('leaves no row behind when it is deleted, whatever it held', async () => {
    const session = await openSession(fetch)
    await eventsOf(session, toolCall('analyze_data', { num_items: 1 }))
    const headers = { 'mcp-session-id': session, host: POST_HEADERS.host }
    await fetch(new Request(`${BASE}/mcp`, { method: 'DELETE', headers }))
    expect(await rowsOf(session)).toEqual([])
    expect(await runDurableObjectAlarm(objectOf(session))).toBe(false)
  })

  it('lets go of finished streams at its alarm', async () => {
    const session = await openSession(fetch)
    await eventsOf(session, toolCall('analyze_data', { num_items: 0 }))
    const stream = readEvents(await listen(session))
    await stream.next()
    expect((await rowsOf(session)).length).toBe(2)
    await age(session)
    await runDurableObjectAlarm(objectOf(session))
    expect(await rowsOf(session)).toEqual(['session'])
    await stream.return(undefined)
  })

  it('refuses state that is larger than a row, and keeps what it had', async () => {
    const session = await openSession(fetch)
    await runInDurableObject(objectOf(session), (_object, { storage }) => {
      const record = JSON.parse(String(storage.kv.get('session')))
      const state = { notes: ['x'.repeat(995_000)] }
      storage.kv.put('session', JSON.stringify({ ...record, state }))
    })
    await evict(session)
    const reply = await rpc(fetch, session, toolCall('add_note', { note: 'y'.repeat(8000) }))
    expect(reply.error?.data?.type).toBe('state_too_large')
    expect((await callTool(fetch, session, 'list_notes'))['notes']).toHaveLength(1)
    expect(await callTool(fetch, session, 'add_note', { note: 'z' })).toMatchObject({
      notes_count: 2,
    })
  })
})

/** Makes a session look unused for an hour. */
async function age(session: string): Promise<void> {
  await runInDurableObject(objectOf(session), (_object, { storage }) => {
    const hourAgo = Date.now() - 3_600_000
    const record = JSON.parse(String(storage.kv.get('session')))
    storage.kv.put('session', JSON.stringify({ ...record, seenAt: hourAgo }))
    for (const [key, text] of storage.kv.list<string>({ prefix: 'stream/' })) {
      storage.kv.put(key, JSON.stringify({ ...JSON.parse(text), writtenAt: hourAgo }))
    }
  })
  await evict(session)
}

async function eventsOf(session: string, call: object): Promise<SseEvent[]> {
  return collect(readEvents(await send(fetch, session, call)))
}

function setLevel(level: string): object {
  return { jsonrpc: '2.0', id: 1, method: 'logging/setLevel', params: { level } }
}
