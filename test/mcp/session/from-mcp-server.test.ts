import { McpServer, type ServerContext } from '@modelcontextprotocol/server'
import { describe, expect, it } from 'vitest'
import * as z from 'zod'
import { storeAway } from '../../../mcp/errors.ts'
import type { SessionStore } from '../../../mcp/session/store.ts'
import { fromMcpServer, type Pack } from '../../../mcp/session/tool.ts'
import { getCounter, incrementCounter } from '../../../mcp/tools/counter.ts'
import { get } from '../../support/client.ts'
import { createLocalApp, createLocalStore } from '../../support/local-app.ts'
import {
  callTool,
  initialize,
  openSession,
  post,
  readEvents,
  rpc,
  send,
  toolCall,
  until,
  type Fetch,
  type SseEvent,
} from '../../support/mcp.ts'
import { askTool, replyTo, runTool } from '../../support/stateless.ts'
import { unhandledRejections } from '../../support/unhandled.ts'

const text = (said: string) => ({ content: [{ type: 'text' as const, text: said }] })
const sure = {
  message: 'Sure?',
  requestedSchema: { type: 'object' as const, properties: { sure: { type: 'boolean' as const } } },
}

describe('a server that is written for the SDK', () => {
  it('is served as it is, and tools of ours beside it', async () => {
    const { fetch } = createLocalApp({ pack: existing() })
    const session = await openSession(fetch)
    const { result } = await rpc(fetch, session, { jsonrpc: '2.0', id: 1, method: 'tools/list' })
    const tools = result?.['tools'] as { name: string; title?: string }[]
    expect(tools.map(({ name }) => name)).toEqual([
      'shout',
      'ask',
      'increment_counter',
      'get_counter',
    ])
    expect(tools[0]?.title).toBe('Shout')
    const wrong = await rpc(fetch, session, toolCall('shout', { word: 1 }))
    expect(wrong.result?.isError).toBe(true)
    await callTool(fetch, session, 'increment_counter')
    expect(await callTool(fetch, session, 'get_counter')).toMatchObject({ counter: 1 })
  })

  it('speaks no revision that has no sessions over HTTP', async () => {
    const { fetch } = createLocalApp({ pack: existing() })
    const params = { ...initialize.params, protocolVersion: '2024-11-05' }
    const response = await fetch(post(JSON.stringify({ ...initialize, params })))
    const { result } = (await response.json()) as { result: object }
    expect(result).toMatchObject({
      protocolVersion: '2025-11-25',
      serverInfo: { name: 'existing' },
      instructions: 'Shout.',
    })
  })

  it('begins no session that it refuses', async () => {
    const refuse = (): never => {
      throw new Error('Not you')
    }
    const commits: unknown[] = []
    const store = createLocalStore({})
    const commit: SessionStore['commit'] = (id, one) => {
      commits.push(one)
      return store.commit(id, one)
    }
    const { fetch, events } = createLocalApp({
      store: { ...store, commit },
      pack: {
        ...existing(),
        extend: ({ server }) => server.setRequestHandler('initialize', refuse),
      },
    })
    const response = await fetch(post(JSON.stringify(initialize)))
    expect([response.status, response.headers.get('mcp-session-id')]).toEqual([200, null])
    expect(await response.json()).toMatchObject({ id: 0, error: { message: 'Not you' } })
    expect(commits).toEqual([])
    expect(events).toEqual([{ event: 'request_refused', why: '-32603', from: undefined }])
  })

  it('runs a call once that is sent again under its key', async () => {
    const runs: string[] = []
    const { fetch } = createLocalApp({ pack: existing((word) => runs.push(word)) })
    const session = await openSession(fetch)
    for (const id of [1, 2]) {
      const call = { name: 'shout', arguments: { word: 'kelp' }, idempotencyKey: 'k' }
      const reply = await rpc(fetch, session, {
        jsonrpc: '2.0',
        id,
        method: 'tools/call',
        params: call,
      })
      expect(reply).toMatchObject({ id, result: text('KELP') })
    }
    expect(runs).toEqual(['kelp'])
  })

  it('is not run for a call that another instance has on record', async () => {
    const runs: string[] = []
    const pack = existing((word) => runs.push(word))
    const store = createLocalStore({})
    const [a, b] = ['a', 'b'].map((instance) => createLocalApp({ pack, store, instance }))
    const session = await openSession(a?.fetch ?? fetch)
    for (const app of [a, b]) {
      const params = { name: 'shout', arguments: { word: 'kelp' }, idempotencyKey: 'k' }
      const call = { jsonrpc: '2.0', id: 1, method: 'tools/call', params }
      expect(await rpc(app?.fetch ?? fetch, session, call)).toMatchObject({ result: text('KELP') })
    }
    expect(runs).toEqual(['kelp'])
  })

  it('goes on elsewhere with what it asks and says, in its short form too', async () => {
    const store = createLocalStore({})
    const a = createLocalApp({ pack: existing(), store, instance: 'a' })
    const b = createLocalApp({ pack: existing(), store, instance: 'b' })
    const session = await openSession(a.fetch)
    const asking = await ask(a.fetch, session)
    const [logged, question] = asking.messages
    expect(logged).toMatchObject({ params: { data: 'Asking' } })
    const rest = readEvents(await b.fetch(get(session, asking.last)))
    const answer = { action: 'accept', content: { sure: true } }
    await send(b.fetch, session, { jsonrpc: '2.0', id: question?.['id'], result: answer })
    const { messages } = await take(rest, 2)
    expect(messages).toMatchObject([{ params: { data: 'Asked' } }, { result: text('accept true') }])
    expect(b.events.map(({ event }) => event)).toContain('call_taken_over')
  })

  it('has to say whose question it is while several calls run', async () => {
    const { fetch } = createLocalApp({ pack: existing() })
    const session = await openSession(fetch)
    await ask(fetch, session)
    const second = readEvents(await send(fetch, session, toolCall('ask', {}, 2)))
    const { messages } = await take(second, 2)
    expect(messages[1]).toMatchObject({
      result: {
        isError: true,
        content: [{ text: expect.stringContaining('it is not said which one asks') as string }],
      },
    })
    const named = await ask(fetch, session, { named: true })
    expect(named.messages[1]).toMatchObject({ method: 'elicitation/create' })
  })

  it('is made where its session is restored when it is needed, and again if that failed', async () => {
    const made: string[] = []
    const failures = [new Error('Not now')]
    const packOf = (where: string): Pack => {
      const { server = () => new McpServer({ name: '', version: '' }), ...rest } = existing()
      return {
        ...rest,
        server() {
          made.push(where)
          const failure = where === 'b' ? failures.pop() : undefined
          if (failure !== undefined) throw failure
          return server()
        },
      }
    }
    const store = createLocalStore({})
    const [a, b] = ['a', 'b'].map((where) => createLocalApp({ pack: packOf(where), store }))
    if (a === undefined || b === undefined) return
    const session = await openSession(a.fetch)
    await callTool(b.fetch, session, 'increment_counter')
    expect(await callTool(b.fetch, session, 'get_counter')).toMatchObject({ counter: 1 })
    expect(made).toEqual(['a'])
    const list = { jsonrpc: '2.0', id: 1, method: 'tools/list' }
    const { error } = await rpc(b.fetch, session, list)
    expect(error?.data?.type).toBe('internal_error')
    const both = await Promise.all([1, 2].map(() => rpc(b.fetch, session, list)))
    expect(both).toMatchObject([{ result: { tools: [{}, {}, {}, {}] } }, { id: 1 }])
    expect(made).toEqual(['a', 'b', 'b'])
  })

  it('ends a call that goes on where no server can be made', async () => {
    const store = createLocalStore({})
    const broken = (): never => {
      throw new Error('Not now')
    }
    const a = createLocalApp({ pack: existing(), store, instance: 'a' })
    const b = createLocalApp({ pack: { ...existing(), server: broken }, store, instance: 'b' })
    const session = await openSession(a.fetch)
    const { last } = await ask(a.fetch, session)
    const { messages } = await take(readEvents(await b.fetch(get(session, last))), 1)
    expect(messages).toMatchObject([{ error: { data: { type: 'internal_error' } } }])
  })

  it('says elsewhere no more than its client wants to hear', async () => {
    const store = createLocalStore({})
    const [a, b] = [1, 2].map(() => createLocalApp({ pack: existing(), store }))
    if (a === undefined || b === undefined) return
    const session = await openSession(a.fetch)
    const params = { level: 'error' }
    await rpc(a.fetch, session, { jsonrpc: '2.0', id: 1, method: 'logging/setLevel', params })
    const stream = readEvents(await send(b.fetch, session, toolCall('ask', {})))
    expect((await take(stream, 1)).messages).toMatchObject([{ method: 'elicitation/create' }])
  })

  it('may change its lists while the store is away', async () => {
    const failed = unhandledRejections()
    const store = createLocalStore({})
    let isAway = false
    const commit: SessionStore['commit'] = (...commits) =>
      isAway ? Promise.reject(storeAway('away')) : store.commit(...commits)
    const server = new McpServer({ name: 'existing', version: '1' })
    const add = (name: string) => server.registerTool(name, {}, () => text(name))
    add('one')
    const pack = fromMcpServer(() => server)
    const { fetch, events } = createLocalApp({ store: { ...store, commit }, pack })
    await openSession(fetch)
    isAway = true
    add('two')
    await until(
      async () => events,
      (all) => all.some(({ event }) => event === 'sdk_error'),
    )
    expect(failed).toEqual([])
  })

  it('is told when its call is cancelled, and may ask too late', async () => {
    const begun = Promise.withResolvers<void>()
    const over = Promise.withResolvers<void>()
    const tooLate = Promise.withResolvers<unknown>()
    const pack = fromMcpServer(() => {
      const server = new McpServer({ name: 'existing', version: '1.0.0' })
      server.registerTool('wait', {}, async ({ mcpReq }) => {
        const cancelled = new Promise((resolve) => mcpReq.signal.addEventListener('abort', resolve))
        begun.resolve()
        await Promise.all([cancelled, over.promise])
        const asked = server.server.elicitInput(sure, { relatedRequestId: mcpReq.id })
        asked.catch((error: unknown) => tooLate.resolve(error))
        return text('too late')
      })
      return server
    })
    const { fetch } = createLocalApp({ pack })
    const session = await openSession(fetch)
    const stream = readEvents(await send(fetch, session, toolCall('wait', {}, 'w')))
    await begun.promise
    const params = { requestId: 'w' }
    await send(fetch, session, { jsonrpc: '2.0', method: 'notifications/cancelled', params })
    for await (const _ of stream);
    over.resolve()
    const why = 'Cannot go on with call: it is over'
    expect(await tooLate.promise).toMatchObject({ message: expect.stringContaining(why) })
  })

  it('is served without sessions, and tools of ours with theirs', async () => {
    const { fetch } = createLocalApp({ pack: existing() })
    const said = await replyTo(await fetch(askTool('shout', { word: 'kelp' })))
    expect(said.result).toMatchObject(text('KELP'))
    const session = await openSession(fetch)
    expect(await runTool(fetch, 'increment_counter', { session })).toMatchObject({ counter: 1 })
  })
})

function existing(ran: (word: string) => void = () => undefined): Pack {
  const wrapped = fromMcpServer(() => {
    const info = { name: 'existing', version: '1.0.0' }
    const server = new McpServer(info, { instructions: 'Shout.', capabilities: { logging: {} } })
    const word = z.object({ word: z.string() })
    server.registerTool('shout', { title: 'Shout', inputSchema: word }, (input) => {
      ran(input.word)
      return text(input.word.toUpperCase())
    })
    const named = z.object({ named: z.boolean().optional() })
    server.registerTool('ask', { inputSchema: named }, async (input, ctx) => {
      await ctx.mcpReq.log('info', 'Asking')
      const { action, content } = await ctx.mcpReq.elicitInput(sure, whose(ctx, input.named))
      await ctx.mcpReq.log('info', 'Asked')
      return text(`${action} ${String(content?.['sure'])}`)
    })
    return server
  })
  return { ...wrapped, tools: [incrementCounter, getCounter] }
}

function whose({ mcpReq }: ServerContext, named = false) {
  return named ? { relatedRequestId: mcpReq.id } : {}
}

/** The stream of a call that asks, up to its question. */
async function ask(fetch: Fetch, session: string, input = {}) {
  return take(readEvents(await send(fetch, session, toolCall('ask', input))), 2)
}

async function take(events: AsyncGenerator<SseEvent>, count: number) {
  const messages: Record<string, unknown>[] = []
  for (;;) {
    const { id, data } = (await events.next()).value as SseEvent
    if (data !== '') messages.push(JSON.parse(data) as Record<string, unknown>)
    if (messages.length === count) return { messages, last: id }
  }
}
