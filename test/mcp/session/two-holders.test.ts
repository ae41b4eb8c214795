import * as fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import * as z from 'zod'
import type { SessionId } from '../../../mcp/session/ids.ts'
import { defineTool, type Pack } from '../../../mcp/session/tool.ts'
import { tools } from '../../../mcp/tools/index.ts'
import { createLocalApp, createLocalStore, type LocalApp } from '../../support/local-app.ts'
import {
  callTool,
  openSession,
  post,
  readEvents,
  rpc,
  send,
  toolCall,
  type RpcReply,
  type SseEvent,
} from '../../support/mcp.ts'
import { createGate } from '../../support/rounds.ts'

// Two instances over one store, with nothing that keeps a session on one of them.
describe('two holders of one session', () => {
  it('apply 200 increments that come at once to both, each once', async () => {
    const [a, b] = twoInstances()
    const session = await openSession(a.fetch)
    const calls = Array.from({ length: 200 }, (_, n) =>
      callTool((n % 2 === 0 ? a : b).fetch, session, 'increment_counter'),
    )
    const counters = (await Promise.all(calls)).map(({ counter }) => Number(counter))
    expect(counters.toSorted((x, y) => x - y)).toEqual(Array.from({ length: 200 }, (_, n) => n + 1))
    expect([...a.events, ...b.events].some(({ event }) => event === 'commit_conflict')).toBe(true)
  })

  it('need not run anything again that only one of them was sent', async () => {
    const [a] = twoInstances()
    const session = await openSession(a.fetch)
    const calls = Array.from({ length: 50 }, () => callTool(a.fetch, session, 'increment_counter'))
    await Promise.all(calls)
    expect(a.events.filter(({ event }) => event === 'commit_conflict')).toEqual([])
  })

  it('agree with one that never fails, whatever is sent where, again, or after a restart', () =>
    fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
        const store = createLocalStore({})
        const instances = [0, 1].map(() => createLocalApp({ store }))
        const first = instances[0] ?? createLocalApp({ store })
        const session = await openSession(first.fetch)
        const model = { counter: 0, notes: [] as string[], answered: new Map<number, unknown>() }
        for (const { kind, at, key, note } of steps) {
          if (kind === 'restart') {
            instances[at] = createLocalApp({ store })
            continue
          }
          const { fetch } = instances[at] ?? first
          const call = kind === 'note' ? toolCall('add_note', { note }) : toolCall(TOOLS[kind])
          const headers = { 'mcp-session-id': session, 'idempotency-key': `${kind}-${note}-${key}` }
          const reply = await fetch(post(JSON.stringify(call), headers))
          const { result } = (await reply.json()) as RpcReply
          const id = steps.findIndex(
            (one) => one.kind === kind && one.key === key && one.note === note,
          )
          const expected = model.answered.get(id) ?? apply(model, kind, note)
          if (kind !== 'read') model.answered.set(id, expected)
          expect(result?.structuredContent).toMatchObject(expected)
        }
        expect(await callTool(first.fetch, session, 'get_counter')).toMatchObject({
          counter: model.counter,
        })
        expect(await callTool(first.fetch, session, 'list_notes')).toMatchObject({
          notes: model.notes,
        })
      }),
      { numRuns: 150, seed: 20_261_121 },
    ))

  it('restore a session that the other began, with its client and its settings', async () => {
    const [a, b] = twoInstances()
    const session = await openSession(a.fetch)
    await callTool(a.fetch, session, 'increment_counter')
    expect(await callTool(b.fetch, session, 'increment_counter')).toMatchObject({ counter: 2 })
    expect(b.events).toEqual([
      expect.objectContaining({ event: 'session_restored', session, version: 1 }),
    ])
  })

  it('ask the client what it said at the other that it can be asked', async () => {
    const ask = defineTool({
      name: 'ask',
      description: 'Asks',
      input: z.strictObject({}),
      async run(call) {
        const requestedSchema = { type: 'object' as const, properties: {} }
        return { action: (await call.elicit({ message: '?', requestedSchema })).action }
      },
    })
    const store = createLocalStore({})
    const pack = { name: 'test', version: '0', tools: [ask] }
    const [a, b] = [createLocalApp({ store, pack }), createLocalApp({ store, pack })]
    const session = await openSession(a.fetch)
    const stream = readEvents(await send(b.fetch, session, toolCall('ask')))
    await stream.next()
    const { value } = await stream.next()
    const { id, method } = JSON.parse((value as SseEvent).data)
    expect(method).toBe('elicitation/create')
    await send(b.fetch, session, { jsonrpc: '2.0', id, result: { action: 'decline' } })
    expect(((await stream.next()).value as SseEvent).data).toContain('"action":"decline"')
  })

  it('keep each of two subscriptions that come at once', async () => {
    const store = createLocalStore({})
    const { fetch } = createLocalApp({ store })
    const session = await openSession(fetch)
    const uris = ['a:1', 'b:2']
    const replies = uris.map((uri) =>
      send(fetch, session, {
        jsonrpc: '2.0',
        id: uri,
        method: 'resources/subscribe',
        params: { uri },
      }),
    )
    await Promise.all(replies)
    const loaded = await store.load(session as SessionId)
    expect(loaded?.record.settings.subscriptions.toSorted()).toEqual(uris)
  })

  it('keep what is set on a stream, whatever the other has changed meanwhile', async () => {
    const store = createLocalStore({})
    const gate = createGate()
    const pack: Pack = {
      ...tools,
      extend: ({ server }) =>
        server.setRequestHandler('resources/subscribe', async () => {
          await gate.pass()
          return {}
        }),
    }
    const [a, b] = ['a', 'b'].map((instance) => createLocalApp({ store, instance, pack }))
    if (a === undefined || b === undefined) return
    const session = await openSession(a.fetch)
    const params = { uri: `resource://session/${session}/summary` }
    const request = { jsonrpc: '2.0', id: 1, method: 'resources/subscribe', params }
    const stream = readEvents(await send(a.fetch, session, request))
    await stream.next()
    await callTool(b.fetch, session, 'increment_counter')
    gate.open()
    expect((await stream.next()).value?.data).toContain('"result":{}')
    const record = (await store.load(session as SessionId))?.record
    expect(record).toMatchObject({
      version: 2,
      state: { counter: 1 },
      settings: { subscriptions: [params.uri] },
    })
  })

  it('say no more than was set at the other, from the second call on', async () => {
    const none = z.strictObject({})
    const speak = defineTool({
      name: 'speak',
      description: 'Speaks',
      input: none,
      async run(call) {
        await call.log('info', 'hello')
        return {}
      },
    })
    const store = createLocalStore({})
    const [a, b] = ['a', 'b'].map((instance) =>
      createLocalApp({ store, instance, pack: { tools: [speak] } }),
    )
    if (a === undefined || b === undefined) return
    const session = await openSession(a.fetch)
    const params = { level: 'error' }
    await rpc(b.fetch, session, { jsonrpc: '2.0', id: 1, method: 'logging/setLevel', params })
    await (await send(a.fetch, session, toolCall('speak'))).text()
    const second = await send(a.fetch, session, toolCall('speak'))
    expect(await second.text()).not.toContain('hello')
  })

  it('both know that a session was ended at one of them', async () => {
    const [a, b] = twoInstances()
    const session = await openSession(a.fetch)
    await callTool(b.fetch, session, 'increment_counter')
    const headers = { 'mcp-session-id': session, host: 'localhost' }
    await a.fetch(new Request('http://localhost/mcp', { method: 'DELETE', headers }))
    for (const { fetch } of [a, b]) {
      for (const call of [toolCall('increment_counter'), toolCall('get_counter')]) {
        const { status } = await fetch(post(JSON.stringify(call), { 'mcp-session-id': session }))
        expect(status).toBe(404)
      }
    }
  })
})

const TOOLS = { increment: 'increment_counter', read: 'get_counter' } as const

const step = fc.record({
  kind: fc.constantFrom('increment', 'note', 'read', 'restart'),
  at: fc.nat({ max: 1 }),
  key: fc.nat({ max: 5 }),
  note: fc.constantFrom('a', 'b'),
})

interface Model {
  counter: number
  readonly notes: string[]
}

function apply(model: Model, kind: 'increment' | 'note' | 'read', note: string): object {
  switch (kind) {
    case 'increment':
      return { counter: ++model.counter }
    case 'note':
      return { notes_count: model.notes.push(note) }
    case 'read':
      return { counter: model.counter }
  }
}

function twoInstances(): [LocalApp, LocalApp] {
  const store = createLocalStore({})
  return [
    createLocalApp({ store, instance: 'local-1' }),
    createLocalApp({ store, instance: 'local-2' }),
  ]
}
