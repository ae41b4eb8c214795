import { afterEach, describe, expect, it, vi } from 'vitest'
import * as z from 'zod'
import { ServerError } from '../../../mcp/errors.ts'
import { systemClock } from '../../../mcp/session/clock.ts'
import type { SessionStore } from '../../../mcp/session/store.ts'
import { defineTool } from '../../../mcp/session/tool.ts'
import { createLocalApp, createLocalStore } from '../../support/local-app.ts'
import { endSession, openSession, post, readEvents, toolCall, until } from '../../support/mcp.ts'
import {
  accept,
  add,
  addMany,
  addOne,
  createFlaky,
  createGate,
  createRounds,
  howMany,
  question,
  withAnswer,
} from '../../support/rounds.ts'
import {
  ask,
  askTool,
  envelope,
  openHandle,
  replyTo,
  runTool,
  STATELESS,
} from '../../support/stateless.ts'

afterEach(() => {
  vi.restoreAllMocks()
  vi.useRealTimers()
})

const settled = async (): Promise<void> => {
  for (let turn = 0; turn < 50; turn++) await new Promise((resolve) => void setImmediate(resolve))
}

describe('the next call gets in', () => {
  it('after one that failed while its update waited for its turn', async () => {
    const { store, failNext } = createFlaky(createLocalStore({}))
    const gate = createGate()
    const { a, session } = await createRounds(
      async (call, { by }) => {
        if (by === 1) {
          await call.update(addOne)
          await gate.pass()
          return {}
        }
        failNext('load')
        await Promise.all([call.update(addOne), call.read()])
        return {}
      },
      { store },
    )
    const first = a.fetch(askTool('run', { session }))
    await gate.reached
    expect((await a.fetch(askTool('run', { session, by: 2 }))).status).toBe(503)
    gate.open()
    await first
    expect(await runTool(a.fetch, 'add', { session })).toEqual({ n: 2 })
  })

  it('after one that left an update behind', async () => {
    const stored = createLocalStore({})
    const gate = createGate()
    const store: SessionStore = {
      ...stored,
      async commit(id, commit) {
        if (commit.change?.from === 0) await gate.pass()
        return stored.commit(id, commit)
      },
    }
    const { a, session } = await createRounds(
      async (call) => {
        await call.update(addOne)
        void gate.reached.then(() => call.update(addOne)).catch(() => undefined)
        return {}
      },
      { store },
    )
    const first = a.fetch(askTool('run', { session }))
    await gate.reached
    await settled()
    gate.open()
    await first
    expect(await runTool(a.fetch, 'add', { session })).toEqual({ n: 2 })
  })

  it('after one that has hung up and waits for something outside', async () => {
    const gate = createGate()
    const { a, session } = await createRounds(async (call) => {
      await call.update(addOne)
      await call.step('slow', () => gate.pass().then(() => 1))
      return {}
    })
    const client = new AbortController()
    void a.fetch(askTool('run', { session }, { signal: client.signal }))
    await gate.reached
    client.abort()
    expect(await runTool(a.fetch, 'add', { session })).toEqual({ n: 1 })
  })
})

describe('a call that asks', () => {
  it('does once what it does beside its question, also while that is put', async () => {
    const gate = createGate()
    const { a, session, state } = await createRounds(async (call) => {
      const beside = async () => {
        await call.step('slow', () => gate.pass().then(() => 1))
        await call.update(addOne)
      }
      await Promise.all([howMany(call), beside()])
      return {}
    })
    const sign = crypto.subtle.sign.bind(crypto.subtle)
    let signs = 0
    vi.spyOn(crypto.subtle, 'sign').mockImplementation(async (...args) => {
      // The second one signs what was recorded; the tool goes on meanwhile.
      if (++signs === 2) {
        gate.open()
        await settled()
      }
      return sign(...args)
    })
    const asked = await question(a.fetch, session)
    await runTool(a.fetch, 'run', { session }, withAnswer(asked, accept(1)))
    expect((await state()).n).toBe(1)
  })

  it('changes nothing if its client cannot be asked', async () => {
    const { a, session, state } = await createRounds(async (call) => {
      await call.update(addOne)
      return howMany(call)
    })
    const response = await a.fetch(askTool('run', { session }))
    expect([response.status, (await replyTo(response)).error?.code]).toEqual([400, -32021])
    expect(await state()).toEqual({ n: 0, version: 0 })
  })

  it('goes on without an answer, if its tool does, with a client that cannot be asked', async () => {
    const { a, session, state } = await createRounds(async (call) => {
      const asked = await howMany(call).then(JSON.stringify, String)
      await call.update(addOne)
      return { asked }
    })
    const said = 'Error: Client does not support elicitation'
    expect(await replyTo(await a.fetch(askTool('run', { session })))).toMatchObject({
      result: { structuredContent: { asked: said } },
    })
    expect(await state()).toEqual({ n: 1, version: 1 })
  })

  it('has one effect, however late its answer is sent again', async () => {
    vi.useFakeTimers({ toFake: ['Date'], now: 1_700_000_000_000 })
    const { a, session, state } = await createRounds(addMany)
    const more = withAnswer(await question(a.fetch, session), accept(1))
    await runTool(a.fetch, 'run', { session }, more)
    vi.setSystemTime(1_700_000_000_000 + 6 * 60_000)
    await replyTo(await a.fetch(askTool('run', { session }, more)))
    expect((await state()).n).toBe(1)
  })
})

describe('a request', () => {
  it.each([
    ['no capabilities', { clientCapabilities: undefined }],
    ['capabilities that are none', { clientCapabilities: 5 }],
    ['a level that is none', { logLevel: 'loud' }],
    ['a client without a name', { clientInfo: {} }],
  ])('is refused with HTTP 400 for an envelope with %s', async (_what, wrong) => {
    const { fetch } = createLocalApp()
    const named = Object.entries(wrong).map(([key, value]) => [
      `io.modelcontextprotocol/${key}`,
      value,
    ])
    const _meta = { ...envelope(), ...Object.fromEntries(named) }
    const params = { name: 'get_server_info', arguments: {}, _meta }
    const message = { jsonrpc: '2.0', id: 1, method: 'tools/call', params }
    const headers = { 'mcp-method': 'tools/call', 'mcp-name': 'get_server_info' }
    const response = await fetch(
      post(JSON.stringify(message), { ...headers, 'mcp-protocol-version': STATELESS }),
    )
    expect([response.status, (await replyTo(response)).error?.code]).toEqual([400, -32602])
  })

  it('is told that its session has ended', async () => {
    const gate = createGate()
    let signal: AbortSignal | undefined
    const { a, session } = await createRounds(async (call) => {
      signal = call.signal
      await call.update(addOne)
      await gate.pass()
      return {}
    })
    const called = a.fetch(askTool('run', { session }))
    await gate.reached
    await endSession(a.fetch, session)
    expect((await replyTo(await called)).result).toMatchObject({ isError: true })
    expect(signal?.aborted).toBe(true)
  })

  it('runs no step for a session that has expired', async () => {
    let [now, steps] = [0, 0]
    const options = {
      clock: { ...systemClock, now: () => now },
      env: { SESSION_TTL_SECONDS: '10' },
    }
    const { a, session } = await createRounds(async (call) => {
      await call.step('pay', async () => ++steps)
      return add(call)
    }, options)
    await runTool(a.fetch, 'add', { session })
    now = 10_000
    expect((await replyTo(await a.fetch(askTool('run', { session })))).result?.isError).toBe(true)
    expect(steps).toBe(0)
  })

  it('has one key in all revisions, also if its schema changes what it takes', async () => {
    const input = z.strictObject({ s: z.string().transform((text) => `${text}!`) })
    const tool = defineTool({ name: 't', description: '', input, run: add })
    const { fetch } = createLocalApp({ pack: { name: 'x', version: '0', tools: [tool] } })
    const session = await openSession(fetch)
    const headers = { 'mcp-session-id': session, 'idempotency-key': 'k' }
    const message = JSON.stringify(toolCall('t', { s: 'a' }))
    const { result } = await replyTo(await fetch(post(message, headers)))
    expect(result?.structuredContent).toEqual({ n: 1 })
    const again = { idempotencyKey: 'k' }
    expect(await runTool(fetch, 't', { session, s: 'a' }, again)).toEqual({ n: 1 })
  })
})

describe('who listens', () => {
  it('is told, or refused, if the first to listen could not', async () => {
    const stored = createLocalStore({})
    const gate = createGate()
    let loads = Number.NaN
    const store: SessionStore = {
      ...stored,
      async load(id, key) {
        // 1: the first may hear. 2: its watch, which fails late. 3: the second may hear.
        if (++loads !== 2) return stored.load(id, key)
        await gate.pass()
        throw new ServerError('store_unavailable', 'Cannot reach store')
      },
    }
    const { fetch } = createLocalApp({ store })
    const session = await openHandle(fetch)
    const uri = `resource://session/${session}/summary`
    const notifications = { resourceSubscriptions: [uri] }
    const listen = () => fetch(ask('subscriptions/listen', { notifications }))
    loads = 0
    const first = listen()
    await gate.reached
    const second = listen()
    await until(
      async () => loads,
      (count) => count >= 3,
    )
    gate.open()
    expect((await first).status).toBe(503)
    const answer = await second
    if (answer.status === 503) return
    const events = readEvents(answer)
    await events.next()
    await runTool(fetch, 'increment_counter', { session })
    expect((await events.next()).value?.data).toContain(uri)
  })
})
