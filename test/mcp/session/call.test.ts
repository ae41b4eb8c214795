import * as z from 'zod'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { ServerError } from '../../../mcp/errors.ts'
import { sleep, systemClock } from '../../../mcp/session/clock.ts'
import type { SessionId } from '../../../mcp/session/ids.ts'
import { parseState } from '../../../mcp/session/record.ts'
import { slot } from '../../../mcp/session/state.ts'
import type { SessionStore } from '../../../mcp/session/store.ts'
import { defineTool, type Pack } from '../../../mcp/session/tool.ts'
import { createLocalApp, createLocalStore } from '../../support/local-app.ts'
import {
  callTool,
  endSession,
  openSession,
  readEvents,
  rpc,
  send,
  toolCall,
  until,
  type RpcReply,
  type SseEvent,
} from '../../support/mcp.ts'
import { form } from '../../support/rounds.ts'
import { unhandledRejections } from '../../support/unhandled.ts'

const n = slot('n', z.int().default(0))
const none = z.strictObject({})

describe('what a tool sees', () => {
  it('a question to the user, whose answer comes by another request', async () => {
    const ask = defineTool({
      name: 'ask',
      description: 'Asks',
      input: none,
      async run(call) {
        const requestedSchema = {
          type: 'object' as const,
          properties: { sure: { type: 'boolean' as const } },
        }
        const { action, content } = await call.elicit({ message: 'Sure?', requestedSchema })
        await call.update((state) => n.set(state, n.get(state) + 1))
        return { action, sure: content?.['sure'] === true }
      },
    })
    const { fetch } = createLocalApp({ pack: packOf(ask) })
    const session = await openSession(fetch)
    const streams = []
    for (const id of [1, 1]) {
      const stream = readEvents(await send(fetch, session, toolCall('ask', {}, id)))
      await stream.next()
      const { data } = (await stream.next()).value as SseEvent
      streams.push({ stream, question: JSON.parse(data) as { id: string; method: string } })
    }
    const [first, second] = streams
    expect(first?.question.method).toBe('elicitation/create')
    expect(first?.question.id).not.toBe(second?.question.id)
    // Answers to nothing, in the SDK's own way of counting, hit nothing.
    for (const id of [0, 1, 'x-0']) await answer(fetch, session, id, false)
    await answer(fetch, session, second?.question.id, true)
    await answer(fetch, session, first?.question.id, false)
    await answer(fetch, session, first?.question.id, true)
    for (const [one, sure] of [
      [first, false],
      [second, true],
    ] as const) {
      const { value } = (await one?.stream.next()) ?? {}
      expect(JSON.parse((value as SseEvent).data)).toMatchObject({
        result: { structuredContent: { sure } },
      })
    }
  })

  it('a question for as long as the session lets it be open', async () => {
    // The SDK has a watch of its own, of a minute.
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    onTestFinished(() => void vi.useRealTimers())
    const ask = defineTool({
      name: 'ask',
      description: 'Asks',
      input: none,
      async run(call) {
        const requestedSchema = { type: 'object' as const, properties: {} }
        return { action: (await call.elicit({ message: 'Sure?', requestedSchema })).action }
      },
    })
    const { fetch } = createLocalApp({ pack: packOf(ask) })
    const session = await openSession(fetch)
    const stream = readEvents(await send(fetch, session, toolCall('ask')))
    await stream.next()
    const { id } = JSON.parse(((await stream.next()).value as SseEvent).data) as { id: string }
    await vi.advanceTimersByTimeAsync(29 * 60_000)
    await answer(fetch, session, id, true)
    const { data } = (await stream.next()).value as SseEvent
    expect(JSON.parse(data)).toMatchObject({ result: { structuredContent: { action: 'accept' } } })
  })

  it.each(['cancelled', 'ended'])('that its call is %s', async (how) => {
    const begun = Promise.withResolvers<void>()
    const told = Promise.withResolvers<void>()
    const wait = defineTool({
      name: 'wait',
      description: 'Waits until nobody waits for it.',
      input: none,
      async run({ signal }) {
        signal.addEventListener('abort', () => told.resolve())
        begun.resolve()
        await told.promise
        return {}
      },
    })
    const { fetch } = createLocalApp({ pack: packOf(wait) })
    const session = await openSession(fetch)
    const called = send(fetch, session, toolCall('wait', {}, 'w'))
    await begun.promise
    const method = 'notifications/cancelled'
    if (how === 'ended') await endSession(fetch, session)
    else await send(fetch, session, { jsonrpc: '2.0', method, params: { requestId: 'w' } })
    await told.promise
    await called
  })

  it('a state that it can change by update alone', async () => {
    const mutate = defineTool({
      name: 'mutate',
      description: 'Tries to change what it was given',
      input: none,
      async run(call) {
        const state = await call.update((before) => ({ ...before, list: [1, [2]] }))
        Object.assign((state['list'] as unknown[])[1] as object, { 0: 9 })
        return {}
      },
    })
    const { fetch } = createLocalApp({ pack: packOf(mutate) })
    const session = await openSession(fetch)
    const { result } = await rpc(fetch, session, toolCall('mutate'))
    expect(result).toMatchObject({ isError: true })
  })

  it('two updates of one call as one commit, and a read between them', async () => {
    const twice = defineTool({
      name: 'twice',
      description: 'Adds 2',
      input: none,
      async run(call) {
        await call.update((state) => n.set(state, n.get(state) + 1))
        const between = n.get(await call.read())
        const after = await call.update((state) => n.set(state, n.get(state) + 1))
        return { between, after: n.get(after) }
      },
    })
    const counted = countCommits(createLocalStore({}))
    const { fetch } = createLocalApp({ pack: packOf(twice), store: counted.store })
    const session = await openSession(fetch)
    const before = counted.commits()
    expect(await callTool(fetch, session, 'twice')).toEqual({ between: 1, after: 2 })
    expect(counted.commits() - before).toBe(1)
  })

  it('an update that it makes while it speaks, kept with what it said', async () => {
    const both = defineTool({
      name: 'both',
      description: 'Speaks and updates at once',
      input: none,
      async run(call) {
        const add = () => call.update((state) => n.set(state, n.get(state) + 1))
        const [, state] = await Promise.all([call.log('info', 'hi'), add()])
        return { n: n.get(state) }
      },
    })
    const store = slowCommits(createLocalStore({}))
    const { fetch } = createLocalApp({ pack: packOf(both), store })
    const session = await openSession(fetch)
    for (let count = 1; count <= 3; count++) {
      expect(await callTool(fetch, session, 'both')).toEqual({ n: count })
    }
  })

  it('a state that it cannot change in place after a restore either', () => {
    const restored = parseState('{"list":[[1]]}')
    expect(Object.isFrozen((restored['list'] as unknown[])[0])).toBe(true)
  })

  it('nothing of a change that it had not committed when its client cancelled it', async () => {
    const staged = Promise.withResolvers<void>()
    const hang = defineTool({
      name: 'hang',
      description: 'Updates and does not end',
      input: none,
      async run(call) {
        await call.update((state) => n.set(state, 9))
        staged.resolve()
        return new Promise<never>(() => undefined)
      },
    })
    const store = createLocalStore({})
    const env = { QUICK_REPLY_MS: '1000000' }
    const { fetch } = createLocalApp({ pack: packOf(hang), store, env })
    const session = await openSession(fetch)
    const reply = rpc(fetch, session, toolCall('hang', {}, 'h'))
    await staged.promise
    const params = { requestId: 'h' }
    await send(fetch, session, { jsonrpc: '2.0', method: 'notifications/cancelled', params })
    expect((await reply).error?.code).toBe(-32800)
    expect((await store.load(session as SessionId))?.record.version).toBe(0)
  })

  it('the end of a cancelled call once, also where it does not wait for what it does', async () => {
    const failed = unhandledRejections()
    const [work, over] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()]
    const beside = defineTool({
      name: 'beside',
      description: 'Does a lot at once, and waits for none of it',
      input: none,
      async run(call) {
        const step = async (): Promise<number> => work.promise.then(() => 1)
        const all = [call.step('work', step), call.elicit(form('Sure?')), call.sleep(1_000_000)]
        await call.log('info', 'here')
        await sleep(systemClock, 1_000_000, call.signal).catch(() => undefined)
        for (const end of [() => call.now(), () => call.read(), () => call.log('info', 'x')])
          void end()
        work.resolve()
        // What nobody has handled is told before a timer fires.
        setTimeout(over.resolve)
        return { begun: all.length }
      },
    })
    const { fetch } = createLocalApp({ pack: packOf(beside) })
    const session = await openSession(fetch)
    const events = readEvents(await send(fetch, session, toolCall('beside', {}, 'b')))
    await until(
      async () => (await events.next()).value?.data ?? '',
      (data) => data.includes('here'),
    )
    const params = { requestId: 'b' }
    await send(fetch, session, { jsonrpc: '2.0', method: 'notifications/cancelled', params })
    await over.promise
    expect(failed).toEqual([])
  })

  it('updates that it does not wait for one after the other', async () => {
    const both = defineTool({
      name: 'both',
      description: 'Adds 2 at once',
      input: none,
      async run(call) {
        const add = () => call.update((state) => n.set(state, n.get(state) + 1))
        const states = await Promise.all([add(), add()])
        return { states: states.map((state) => n.get(state)) }
      },
    })
    // No timer may come to its help.
    const { fetch } = createLocalApp({ pack: packOf(both), env: { QUICK_REPLY_MS: '1000000' } })
    const session = await openSession(fetch)
    expect(await callTool(fetch, session, 'both')).toEqual({ states: [1, 2] })
  })

  it('its updates in the order of what it says', async () => {
    const mixed = defineTool({
      name: 'mixed',
      description: 'Updates, speaks and updates',
      input: none,
      async run(call) {
        await call.update((state) => n.set(state, 1))
        await call.log('info', 'one')
        await call.update((state) => n.set(state, n.get(state) + 1))
        return { n: n.get(await call.read()) }
      },
    })
    const { fetch } = createLocalApp({ pack: packOf(mixed) })
    const session = await openSession(fetch)
    expect(await callTool(fetch, session, 'mixed')).toEqual({ n: 2 })
    expect(await callTool(fetch, session, 'mixed')).toEqual({ n: 2 })
  })

  it('a slow call answered with a stream, which does not keep others waiting', async () => {
    const gate = Promise.withResolvers<void>()
    const slow = defineTool({
      name: 'slow',
      description: 'Updates and is slow about the rest',
      input: none,
      async run(call) {
        const state = await call.update((before) => n.set(before, n.get(before) + 1))
        await gate.promise
        return { n: n.get(state) }
      },
    })
    const quick = defineTool({
      name: 'quick',
      description: 'Updates',
      input: none,
      async run(call) {
        return { n: n.get(await call.update((state) => n.set(state, n.get(state) + 1))) }
      },
    })
    const { fetch } = createLocalApp({ pack: packOf(slow, quick), env: { QUICK_REPLY_MS: '20' } })
    const session = await openSession(fetch)
    const stream = readEvents(await send(fetch, session, toolCall('slow')))
    expect(((await stream.next()).value as SseEvent).data).toBe('')
    expect(await callTool(fetch, session, 'quick')).toEqual({ n: 2 })
    gate.resolve()
    expect(((await stream.next()).value as SseEvent).data).toContain('"n":1')
  })

  it('an error of its own as an error result, with its earlier update kept', async () => {
    const fail = defineTool({
      name: 'fail',
      description: 'Updates and fails',
      input: none,
      async run(call) {
        await call.update((state) => n.set(state, 5))
        throw new Error('Cannot do it: no reason')
      },
    })
    const read = defineTool({
      name: 'read',
      description: 'Reads',
      input: none,
      run: async (call) => ({ n: n.get(await call.read()) }),
    })
    const { fetch } = createLocalApp({ pack: packOf(fail, read) })
    const session = await openSession(fetch)
    const { result } = await rpc(fetch, session, toolCall('fail'))
    expect(result).toEqual({
      content: [{ type: 'text', text: 'Cannot do it: no reason' }],
      isError: true,
    })
    expect(await callTool(fetch, session, 'read')).toEqual({ n: 5 })
  })

  it('a step whose key is its own, and a clock', async () => {
    const steps = defineTool({
      name: 'steps',
      description: 'Does two steps',
      input: none,
      async run(call) {
        const first = await call.step('a', async (key) => key)
        const second = await call.step('a', async (key) => key)
        return { first, second, now: await call.now() }
      },
    })
    const { fetch } = createLocalApp({ pack: packOf(steps) })
    const session = await openSession(fetch)
    const { first, second, now } = await callTool(fetch, session, 'steps')
    expect(first).not.toBe(second)
    expect(Math.abs(Number(now) - Date.now())).toBeLessThan(60_000)
  })
})

describe('a store that fails', () => {
  const unavailable = new ServerError('store_unavailable', 'Cannot reach store')
  const increment = defineTool({
    name: 'increment',
    description: 'Updates',
    input: none,
    async run(call) {
      return { n: n.get(await call.update((state) => n.set(state, n.get(state) + 1))) }
    },
  })

  it('is a 503 to the client, and nothing is half done', async () => {
    const store = createLocalStore({})
    let failing = false
    const flaky: SessionStore = {
      ...store,
      commit: (id, commit) => (failing ? Promise.reject(unavailable) : store.commit(id, commit)),
    }
    const { fetch } = createLocalApp({ pack: packOf(increment), store: flaky })
    const session = await openSession(fetch)
    failing = true
    const response = await send(fetch, session, toolCall('increment'))
    expect(response.status).toBe(503)
    expect(response.headers.get('retry-after')).toBe('1')
    expect(((await response.json()) as RpcReply).error?.data?.type).toBe('store_unavailable')
    failing = false
    expect(await callTool(fetch, session, 'increment')).toEqual({ n: 1 })
  })

  it.each(['plain', 'streamed'])('is on record if it fails a %s call', async (how) => {
    const store = createLocalStore({})
    const broken: SessionStore = {
      ...store,
      async commit(id, commit) {
        if (commit.change !== undefined) throw new TypeError('No such kelp')
        return store.commit(id, commit)
      },
    }
    const speak = defineTool({
      name: 'speak',
      description: 'Speaks, if it is to, and updates',
      input: none,
      async run(call) {
        if (how === 'streamed') await call.log('info', 'here')
        return increment.run(call, {})
      },
    })
    const { fetch, events } = createLocalApp({ pack: packOf(speak), store: broken })
    const { error } = await rpc(fetch, await openSession(fetch), toolCall('speak'))
    expect(error).toMatchObject({ message: 'Internal error', data: { type: 'internal_error' } })
    const failed = events.filter(({ event }) => event === 'request_failed')
    expect(failed).toEqual([{ event: 'request_failed', message: 'No such kelp' }])
  })

  it.each(['reply', 'message'])(
    'ends a stream whose %s is too large with an error',
    async (what) => {
      const speak = defineTool({
        name: 'speak',
        description: 'Speaks and says too much',
        input: none,
        async run(call) {
          await call.log('info', 'so far, so good')
          if (what === 'message') await call.log('info', 'x'.repeat(100))
          return { text: 'x'.repeat(100) }
        },
      })
      const store = createLocalStore({})
      const small: SessionStore = {
        ...store,
        commit: async (id, commit) => {
          if (JSON.stringify(commit).includes('x'.repeat(100))) {
            throw new ServerError('state_too_large', 'Cannot commit: too much')
          }
          return store.commit(id, commit)
        },
      }
      const { fetch } = createLocalApp({ pack: packOf(speak), store: small })
      const session = await openSession(fetch)
      const reply = await rpc(fetch, session, toolCall('speak'))
      expect(reply).toMatchObject({ id: 1, error: { data: { type: 'state_too_large' } } })
    },
  )
})

describe('a session that runs too many calls', () => {
  it('refuses one more, and takes it when another has ended', async () => {
    const gate = Promise.withResolvers<void>()
    const wait = defineTool({
      name: 'wait',
      description: 'Waits',
      input: none,
      async run() {
        await gate.promise
        return { done: true }
      },
    })
    const { fetch } = createLocalApp({ pack: packOf(wait), env: { MAX_CALLS_PER_SESSION: '3' } })
    const session = await openSession(fetch)
    const running = [1, 2, 3].map((id) => rpc(fetch, session, toolCall('wait', {}, id)))
    const one = async (): Promise<number> => {
      const response = await send(fetch, session, { jsonrpc: '2.0', id: 4, method: 'ping' })
      await response.text()
      return response.status
    }
    await until(one, (status) => status === 429)
    gate.resolve()
    await Promise.all(running)
    expect(await one()).toBe(200)
  })
})

/** A store that takes its time, as one over a network does. */
function slowCommits(store: SessionStore): SessionStore {
  return {
    ...store,
    async commit(id, commit) {
      await new Promise((resolve) => setTimeout(resolve, 5))
      return store.commit(id, commit)
    },
  }
}

function packOf(...tools: Pack['tools']): Pack {
  return { name: 'test', version: '0', tools }
}

async function answer(
  fetch: Parameters<typeof send>[0],
  session: string,
  id: unknown,
  sure: boolean,
): Promise<void> {
  const result = { action: 'accept', content: { sure } }
  await (await send(fetch, session, { jsonrpc: '2.0', id, result })).text()
}

function countCommits(store: SessionStore): { store: SessionStore; commits: () => number } {
  let commits = 0
  const counting: SessionStore = {
    ...store,
    commit(id, commit) {
      commits++
      return store.commit(id, commit)
    },
  }
  return { store: counting, commits: () => commits }
}
