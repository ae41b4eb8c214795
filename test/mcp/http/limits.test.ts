import { afterEach, describe, expect, it } from 'vitest'
import * as z from 'zod'
import { LIMITS, settingOf, type Limits } from '../../../mcp/limits.ts'
import { slot } from '../../../mcp/session/state.ts'
import { defineTool, type Pack } from '../../../mcp/session/tool.ts'
import { get } from '../../support/client.ts'
import { createLocalApp, type LocalApp } from '../../support/local-app.ts'
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
} from '../../support/mcp.ts'
import { ask, askTool, openHandle } from '../../support/stateless.ts'

const OVER = 5

describe('what one message may be', () => {
  const { maxDepth, maxIdLength } = LIMITS

  it.each([
    ['whose length is told', (body: string) => body],
    ['whose length is not told', (body: string) => new Blob([body]).stream()],
  ])('a body %s: so many bytes, and not one more', async (_what, asBody) => {
    const { fetch, session } = await start({ maxBodyBytes: 1000 })
    const padded = (bytes: number) => JSON.stringify(toolCall('add')).padEnd(bytes - 2) + '\u00e9'
    const sent = (bytes: number) =>
      fetch(post(asBody(padded(bytes)), { 'mcp-session-id': session }))
    // No JSON, for what it is padded with: but it was read.
    expect(await outcomeOf(await sent(1000))).toEqual([400, 'parse_error'])
    expect(await outcomeOf(await sent(1001))).toEqual([413, 'body_too_large'])
    expect(await addedTo(fetch, session)).toBe(0)
  })

  it('so deep, and not one level deeper', async () => {
    const { fetch, session } = await start({})
    // The message, its params, their arguments.
    const nested = (depth: number): object =>
      toolCall('add', { x: JSON.parse('['.repeat(depth - 3) + ']'.repeat(depth - 3)) })
    const { result } = await rpc(fetch, session, nested(maxDepth))
    expect(result?.isError).toBe(true)
    const deeper = await send(fetch, session, nested(maxDepth + 1))
    expect(await outcomeOf(deeper)).toEqual([400, 'invalid_request'])
    expect(await addedTo(fetch, session)).toBe(0)
  })

  it('a JSON-RPC id of so many characters, and not one more', async () => {
    const { fetch, session } = await start({})
    const named = (length: number) => toolCall('add', {}, 'i'.repeat(length))
    expect((await send(fetch, session, named(maxIdLength))).status).toBe(200)
    const longer = await send(fetch, session, named(maxIdLength + 1))
    expect(await outcomeOf(longer)).toEqual([400, 'invalid_request'])
    expect(await addedTo(fetch, session)).toBe(1)
  })

  it.each(['x', '\u00e9', '\u{1f600}'])(
    'a beginning of so many bytes, of %s as well',
    async (char) => {
      const { fetch } = await start({ maxInitializeBytes: 4000 })
      const named = (bytes: number): string => {
        const params = { ...initialize.params, clientInfo: { name: char.repeat(500), version: '' } }
        const text = JSON.stringify({ ...initialize, params })
        return text + ' '.repeat(bytes - Buffer.byteLength(text))
      }
      const wide = {
        ...initialize,
        params: { ...initialize.params, capabilities: { [char.repeat(2000)]: {} } },
      }
      expect((await fetch(post(named(4000)))).status).toBe(200)
      expect(await outcomeOf(await fetch(post(named(4001))))).toEqual([413, 'body_too_large'])
      const isOver = Buffer.byteLength(JSON.stringify(wide)) > 4000
      expect((await fetch(post(JSON.stringify(wide)))).status).toBe(isOver ? 413 : 200)
    },
  )
})

describe('what one session may do at once', () => {
  it.each(['in its session', 'under keys of their own', 'by handle'])(
    'calls, %s: so many of those that come at once',
    async (how) => {
      const { fetch, session } = await start({ maxCallsPerSession: 3 }, how)
      let keys = 0
      const called = (): Promise<Response> => {
        if (how === 'by handle') return fetch(askTool('wait', { session }))
        const keyed = how === 'under keys of their own' && { 'idempotency-key': `${keys++}` }
        return fetch(inSession(session, 'wait', { ...keyed }))
      }
      const answers = Array.from({ length: 3 + OVER }, called)
      expect(await refusalsIn(answers, OVER)).toEqual(refusals(429, 'too_many_calls', '1'))
      pack.open()
      await Promise.all((await served(answers)).map((answer) => answer.text()))
      expect((await called()).status).toBe(200)
      expect(await addedTo(fetch, session, how)).toBe(4)
    },
  )

  it('calls: one that fails, is cancelled or is repeated leaves its place to others', async () => {
    const { fetch, session } = await start({ maxCallsPerSession: 1 })
    expect((await rpc(fetch, session, toolCall('fail'))).result?.isError).toBe(true)
    expect((await rpc(fetch, session, toolCall('nobody'))).error?.code).toBe(-32602)
    const waiting = send(fetch, session, toolCall('wait', {}, 'w'))
    const full = await until(
      async () => outcomeOf(await send(fetch, session, toolCall('add'))),
      ([status]) => status === 429,
    )
    expect(full).toEqual([429, 'too_many_calls'])
    const params = { requestId: 'w' }
    await send(fetch, session, { jsonrpc: '2.0', method: 'notifications/cancelled', params })
    await (await waiting).text()
    pack.open()
    await until(
      () => send(fetch, session, toolCall('add')),
      ({ status }) => status === 200,
    )
  })

  it('calls by handle: one whose client hangs up leaves its place to others', async () => {
    const { fetch, session } = await start({ maxCallsPerSession: 1 }, 'by handle')
    const client = new AbortController()
    const waiting = fetch(askTool('wait', { session }, { signal: client.signal }))
    waiting.catch(() => undefined)
    await pack.reached(1)
    expect((await fetch(askTool('add', { session }))).status).toBe(429)
    client.abort()
    await until(
      () => fetch(askTool('add', { session })),
      ({ status }) => status === 200,
    )
  })

  it('streams: so many of those that are opened at once', async () => {
    const { fetch, session } = await start({ maxStreamsPerSession: 3 })
    const events: string[] = []
    for (let n = 0; n < 3 + OVER; n++)
      events.push(await hangUp(await fetch(inSession(session, 'wait'))))
    const answers = events.map((event) => fetch(get(session, event)))
    expect(await refusalsIn(answers, OVER)).toEqual(refusals(429, 'too_many_streams', '1'))
    expect((await fetch(get(session))).status).toBe(429)
    const open = await served(answers)
    await open[0]?.body?.cancel()
    expect((await fetch(get(session))).status).toBe(200)
    expect((await fetch(get(session))).status).toBe(200)
    pack.open()
  })

  it('streams: whoever comes back for one takes its place', async () => {
    const { fetch, session } = await start({ maxStreamsPerSession: 1 })
    const response = await fetch(inSession(session, 'wait'))
    // Its connection may be dead: nobody knows.
    const chunk = await response.body?.getReader().read()
    const [, first = ''] = /^id: (.*)/.exec(new TextDecoder().decode(chunk?.value)) ?? []
    expect((await fetch(get(session, first))).status).toBe(200)
    expect((await fetch(get(session))).status).toBe(429)
    pack.open()
  })

  it('subscriptions: so many of those that come at once', async () => {
    const { fetch, session } = await start({ maxSubscriptions: 3 })
    const subscribe = (n: number): Promise<Response> => subscribed(fetch, session, `x:${n}`)
    const answers = Array.from({ length: 3 + OVER }, (_, n) => subscribe(n))
    expect(await refusalsIn(answers, OVER)).toEqual(refusals(429, 'too_many_subscriptions', '1'))
  })

  it('subscriptions: again to the same, or another after one has ended', async () => {
    const { fetch, session } = await start({ maxSubscriptions: 2 })
    const statuses: number[] = []
    for (const uri of ['x:1', 'x:2', 'x:2', 'x:3']) {
      statuses.push((await subscribed(fetch, session, uri)).status)
    }
    await subscribed(fetch, session, 'x:1', 'resources/unsubscribe')
    statuses.push((await subscribed(fetch, session, 'x:3')).status)
    expect(statuses).toEqual([200, 200, 200, 429, 200])
  })

  it('state of so many characters, and not one more', async () => {
    const { fetch, session } = await start({ maxStateChars: '{"added":9}'.length })
    for (let n = 0; n < 9; n++) await callTool(fetch, session, 'add')
    for (const how of ['add', 'wait']) {
      pack.open()
      const { error } = await rpc(fetch, session, toolCall(how))
      expect(error?.data?.type).toBe('state_too_large')
    }
    expect(await addedTo(fetch, session)).toBe(9)
  })

  it('keeps so many replies, the newest', async () => {
    const { fetch, session } = await start({ maxRepliesPerSession: 2 })
    const keyed = (key: string) =>
      fetch(
        post(JSON.stringify(toolCall('add')), {
          'mcp-session-id': session,
          'idempotency-key': key,
        }),
      )
    for (const key of ['a', 'b', 'c', 'b', 'c']) await (await keyed(key)).text()
    expect(await addedTo(fetch, session)).toBe(3)
    await (await keyed('a')).text()
    expect(await addedTo(fetch, session)).toBe(4)
  })
})

describe('what one process serves at once', () => {
  it('requests that wait: so many of those that come at once', async () => {
    const { fetch, session } = await start({ maxRequests: 3 }, 'by handle')
    const wait = (): Promise<Response> => fetch(askTool('wait', { session }))
    const answers = Array.from({ length: 3 + OVER }, wait)
    expect(await refusalsIn(answers, OVER)).toEqual(refusals(503, 'overloaded', '1'))
    pack.open()
    await Promise.all((await served(answers)).map((answer) => answer.text()))
    const again = await Promise.all([wait(), wait(), wait()])
    expect(again.map(({ status }) => status)).toEqual([200, 200, 200])
    expect(await addedTo(fetch, session, 'by handle')).toBe(6)
  })

  it('requests that wait: not those that still come, however slowly', async () => {
    const { fetch, session } = await start({ maxRequests: 1 })
    const held = Array.from({ length: 3 }, () => heldBody())
    const coming = held.map(({ body }) => fetch(post(body, { 'mcp-session-id': session })))
    expect((await fetch(inSession(session, 'add'))).status).toBe(200)
    held[0]?.end(JSON.stringify(toolCall('add')))
    expect((await coming[0])?.status).toBe(200)
    // A body that breaks off.
    held[1]?.fail()
    await coming[1]
    held[2]?.end('no JSON')
    expect((await coming[2])?.status).toBe(400)
    expect((await fetch(inSession(session, 'add'))).status).toBe(200)
    expect(await addedTo(fetch, session)).toBe(3)
  })

  it('listeners: so many of those that come at once', async () => {
    const { fetch } = await start({ maxListeners: 3 })
    const client = new AbortController()
    const listen = (): Promise<Response> =>
      fetch(ask('subscriptions/listen', { notifications: {} }, { signal: client.signal }))
    const answers = Array.from({ length: 3 + OVER }, listen)
    expect(await refusalsIn(answers, OVER)).toEqual(refusals(429, 'too_many_streams', '1'))
    const heard = await served(answers)
    await heard[0]?.body?.cancel()
    expect((await listen()).status).toBe(200)
    expect((await listen()).status).toBe(429)
    // What is no request to listen takes no place.
    const wrong = await fetch(ask('subscriptions/listen', { notifications: 1 }))
    expect(wrong.status).toBe(429)
    client.abort()
    for (const { body } of heard.slice(1)) await body?.cancel().catch(() => undefined)
    await until(
      () => fetch(ask('subscriptions/listen', { notifications: 1 })),
      ({ status }) => status !== 429,
    )
  })
})

const none = z.strictObject({})
const added = slot('added', z.int().default(0))

/** Tools that add one, each in its way; `wait` does so when it is let. */
function createPack(): Pack & { open: () => void; reached: (count: number) => Promise<void> } {
  let opened = Promise.withResolvers<void>()
  let waiting = 0
  const add: Pack['tools'][number]['run'] = async (call) => {
    const state = await call.update((before) => added.set(before, added.get(before) + 1))
    return { added: added.get(state) }
  }
  const tool = (name: string, run: typeof add) =>
    defineTool({ name, description: name, input: none, run: (call) => run(call, {}) })
  return {
    name: 'limits',
    version: '0',
    tools: [
      tool('add', add),
      tool('read', async (call) => ({ added: added.get(await call.read()) })),
      tool('fail', () => Promise.reject(new Error('It fails'))),
      tool('wait', async (call, input) => {
        waiting++
        await Promise.race([opened.promise, aborted(call.signal)])
        return add(call, input)
      }),
    ],
    open: () => opened.resolve(),
    async reached(count) {
      await until(
        async () => waiting,
        (now) => now >= count,
      )
    },
  }
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    signal.addEventListener('abort', () => reject(new Error('It was cancelled')), { once: true })
  })
}

let pack = createPack()
afterEach(() => pack.open())

interface Started extends LocalApp {
  readonly session: string
}

/** A server with other limits, and a session. */
async function start(limits: Partial<Limits>, how = 'in its session'): Promise<Started> {
  pack = createPack()
  const settings = Object.entries(limits).map(([name, value]) => [settingOf(name), String(value)])
  const env = { QUICK_REPLY_MS: '5', ...Object.fromEntries(settings) }
  const app = createLocalApp({ env, pack })
  const session = await (how === 'by handle' ? openHandle : openSession)(app.fetch)
  return { ...app, session }
}

function inSession(session: string, tool: string, more: Record<string, string> = {}): Request {
  return post(JSON.stringify(toolCall(tool)), { 'mcp-session-id': session, ...more })
}

async function addedTo(fetch: Fetch, session: string, how = ''): Promise<unknown> {
  if (how !== 'by handle') return (await callTool(fetch, session, 'read'))['added']
  const reply = (await (await fetch(askTool('read', { session }))).json()) as { result: Result }
  return reply.result.structuredContent.added
}

interface Result {
  readonly structuredContent: { readonly added: number }
}

async function outcomeOf(response: Response): Promise<[number, string | undefined]> {
  const { error } = (await response.json()) as { error?: { data?: { type?: string } } }
  return [response.status, error?.data?.type]
}

/** What `count` of them are refused with; the others may take their time. */
async function refusalsIn(
  answers: readonly Promise<Response>[],
  count: number,
): Promise<unknown[]> {
  const refused: unknown[] = []
  const enough = Promise.withResolvers<void>()
  let others = 0
  const look = async (answer: Promise<Response>): Promise<void> => {
    const response = await answer
    if (response.status === 200) others++
    else refused.push([...(await outcomeOf(response)), response.headers.get('retry-after')])
    if (refused.length === count || others > answers.length - count) enough.resolve()
  }
  for (const answer of answers) void look(answer)
  await enough.promise
  // That none is refused behind the last.
  await new Promise(setImmediate)
  return refused
}

function refusals(status: number, type: string, retryAfter: string): unknown[] {
  return Array.from({ length: OVER }, () => [status, type, retryAfter])
}

async function served(answers: readonly Promise<Response>[]): Promise<Response[]> {
  return (await Promise.all(answers)).filter(({ status }) => status === 200)
}

/** Reads a stream's first event, and goes. */
async function hangUp(response: Response): Promise<string> {
  for await (const { id } of readEvents(response)) return id
  return ''
}

function subscribed(
  fetch: Fetch,
  session: string,
  uri: string,
  method = 'resources/subscribe',
): Promise<Response> {
  return send(fetch, session, { jsonrpc: '2.0', id: uri, method, params: { uri } })
}

/** A body whose end is yet to come. */
function heldBody() {
  const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>()
  const writer = writable.getWriter()
  return {
    body: readable,
    end: (text: string) =>
      void writer.write(new TextEncoder().encode(text)).then(() => writer.close()),
    fail: () => void writer.abort(new Error('It broke off')).catch(() => undefined),
  }
}
