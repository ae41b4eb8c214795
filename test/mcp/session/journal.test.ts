import { describe, expect, it } from 'vitest'
import * as z from 'zod'
import { ServerError } from '../../../mcp/errors.ts'
import type { Call } from '../../../mcp/session/call.ts'
import { systemClock, type Clock } from '../../../mcp/session/clock.ts'
import { parseEventId, type SessionId, type StreamId } from '../../../mcp/session/ids.ts'
import { slot, type JsonObject, type JsonValue } from '../../../mcp/session/state.ts'
import type { Commit, Entry, SessionStore } from '../../../mcp/session/store.ts'
import { defineTool } from '../../../mcp/session/tool.ts'
import { createLocalApp, createLocalStore, type LocalApp } from '../../support/local-app.ts'
import {
  BASE,
  callTool,
  collect,
  openSession,
  readEvents,
  rpc,
  send,
  toolCall,
  until,
  type RpcReply,
  type SseEvent,
} from '../../support/mcp.ts'

const n = slot('n', z.int().default(0))
const form = { message: 'How many?', requestedSchema: { type: 'object' as const, properties: {} } }

describe('a call that another process goes on with', () => {
  it.each<[what: string, ask: (call: Call, scene: Scene) => Promise<JsonValue>, value: unknown]>([
    ['the state that it read', async (call) => n.get(await call.read()), 0],
    ['the time', (call) => call.now(), START],
    ['what the server is', (call) => call.status(), { sessions: 1, uptimeSeconds: 0 }],
    [
      'the state of another session',
      async (call, { other }) => n.get((await call.stateOf(other)) ?? {}),
      1,
    ],
    ['that there is no such session', async (call) => (await call.stateOf(NEW)) ?? 'none', 'none'],
    ['what a step came to', (call, { count }) => call.step('pay', async () => count('paid')), 1],
    [
      'that a step failed',
      (call, { count }) =>
        call.step('pay', () => Promise.reject(new Error(`No ${count('paid')}`))).catch(String),
      'Error: No 1',
    ],
    [
      'what a step came to, whatever it has made of that',
      async (call) => {
        const own = [1]
        const list = await call.step('list', async () => own)
        own.push(2)
        list.push(3)
        return list
      },
      [1, 3],
    ],
    ['the state that its update made', async (call) => n.get(await call.update(addOne)), 1],
    [
      'that its update threw',
      (call, { count }) => call.update(() => failing(count('thrown'))).catch(String),
      'Error: No 1',
    ],
  ])('is told again %s', async (_what, ask, value) => {
    const clock = createTestClock()
    const scene = await begin(
      async (call, self) => {
        const told = await ask(call, self)
        await call.log('info', 'told')
        await self.stop(call)
        return { told }
      },
      { clock },
    )
    await scene.stopped
    clock.turn(5000)
    await callTool(scene.b.fetch, scene.session, 'add')
    await callTool(scene.b.fetch, scene.other, 'add')
    await scene.beginAnother(NEW)
    const { result } = await scene.finish()
    expect(result?.structuredContent).toEqual({ told: value })
    expect(scene.counts.get('paid') ?? 1).toBe(1)
  })

  it('has done what it did before once', async () => {
    const scene = await begin(async (call, self) => {
      await call.log('info', 'first')
      await call.update(addOne)
      await call.progress(1, 2, 'half')
      await self.stop(call)
      await call.log('info', 'second')
      return { n: n.get(await call.update(addOne)) }
    })
    await scene.stopped
    const { result } = await scene.finish()
    expect(result?.structuredContent).toEqual({ n: 2 })
    expect(await scene.said()).toEqual(['first', 'half', 'second'])
  })

  it('runs a step that had not ended again, with the key that it had', async () => {
    const keys: string[] = []
    const scene = await begin(async (call, self) => ({
      done: await call.step('pay', async (key) => {
        keys.push(key)
        await self.stop(call)
        return 'paid'
      }),
    }))
    await scene.stopped
    const { result } = await scene.finish()
    expect(result?.structuredContent).toEqual({ done: 'paid' })
    expect(keys).toEqual([expect.stringMatching(/\/1\/pay$/), keys[0]])
  })

  it.each<[what: string, ask: (call: Call, done: Promise<void>) => Promise<unknown>]>([
    ['step', (call, done) => call.step('build', () => done.then(() => 'built'))],
    ['question', (call) => call.elicit(form)],
  ])('has numbered a %s when it was begun, whatever was done beside it', async (_what, ask) => {
    const scene = await begin(async (call, self) => {
      const asked = ask(call, self.stop(call))
      await call.log('info', 'one')
      await call.log('info', 'two')
      await self.stop(call)
      void asked
      await call.log('info', 'three')
      return { done: true }
    })
    await scene.stopped
    await until(scene.said, (said) => said.includes('two'))
    const { result } = await scene.finish()
    expect(result?.structuredContent).toEqual({ done: true })
  })

  it('wakes when it would have woken', async () => {
    const clock = createTestClock()
    const scene = await begin(
      async (call) => {
        await call.sleep(1000)
        return { at: await call.now() }
      },
      { clock },
    )
    await until(scene.log, (log) => log.some((one) => one.kind === 'did'))
    clock.turn(400)
    await scene.takeOver()
    clock.turn(599)
    await settled()
    expect((await scene.log()).at(-1)?.kind).toBe('taken')
    clock.turn(1)
    expect((await scene.finish()).result?.structuredContent).toEqual({ at: START + 1000 })
  })

  it('hears the answer to what it had asked', async () => {
    const scene = await begin(howMany)
    const question = await scene.question()
    await scene.takeOver()
    await answer(scene.b, scene.session, question, 2)
    await answer(scene.b, scene.session, question, 3)
    expect((await scene.finish()).result?.structuredContent).toEqual({ action: 'accept', n: 2 })
    expect(await scene.said()).toEqual(['How many?'])
  })

  it('does not ask again what was answered', async () => {
    const scene = await begin(async (call, self) => {
      const { content } = await call.elicit(form)
      await self.stop(call)
      return { n: Number(content?.['n']) }
    })
    await answer(scene.a, scene.session, await scene.question(), 2)
    await scene.stopped
    expect((await scene.finish()).result?.structuredContent).toEqual({ n: 2 })
    expect(await scene.said()).toEqual(['How many?'])
  })

  it('does not wait longer for an answer than it would have', async () => {
    const clock = createTestClock()
    const env = { SESSION_TTL_SECONDS: '10' }
    const store = createLocalStore({ clock })
    const scene = await begin(
      async (call) => ({ told: await call.elicit(form).then(() => '', String) }),
      { clock, env, store },
    )
    await scene.question()
    clock.turn(6000)
    await scene.takeOver()
    clock.turn(3999)
    await settled()
    expect((await scene.log()).at(-1)?.kind).toBe('taken')
    clock.turn(1)
    const { result } = await scene.finish()
    expect(result?.structuredContent?.['told']).toContain('the client has not answered in time')
  })

  it.each([
    ['muted', 'error', 'debug', ['begun']],
    ['not muted', 'debug', 'error', ['aside', 'begun']],
  ])('has its messages %s as they were, whatever the level is now', async (...args) => {
    const [, before, now, said] = args
    const scene = await begin(
      async (call, self) => {
        await call.log('info', 'aside')
        await call.progress(0, 1, 'begun')
        await self.stop(call)
        return {}
      },
      { level: before },
    )
    await scene.stopped
    await setLevel(scene.b, scene.session, now)
    await scene.finish()
    expect(await scene.said()).toEqual(said)
  })

  it('is ended as cancelled if it was cancelled meanwhile', async () => {
    const ran: string[] = []
    const scene = await begin(async (call, self) => {
      ran.push(call.instance)
      await call.log('info', 'begun')
      await self.stop(call)
      await call.update(addOne)
      return {}
    })
    await scene.stopped
    const params = { requestId: 1 }
    const message = { jsonrpc: '2.0', method: 'notifications/cancelled', params }
    await (await send(scene.b.fetch, scene.session, message)).text()
    expect((await scene.finish()).error?.code).toBe(-32800)
    expect(await scene.state()).toBe(0)
    expect(ran).toEqual(['a'])
  })

  it('can be changed no more by who had it before', async () => {
    const scene = await begin(async (call, self) => {
      await call.log('info', 'first')
      await self.stop(call)
      const state = await call.update(addOne)
      await call.log('info', `by ${call.instance}`)
      return { n: n.get(state), by: call.instance }
    })
    await scene.stopped
    await scene.takeOver()
    scene.wake()
    expect((await scene.finish()).result?.structuredContent).toEqual({ n: 1, by: 'b' })
    await scene.a.router.idle()
    expect(await scene.state()).toBe(1)
    expect(await scene.said()).toEqual(['first', 'by b'])
    expect((await scene.log()).at(-1)?.kind).toBe('end')
  })

  it('can be changed no more by who had it before, also before it is taken further', async () => {
    const scene = await begin(async (call, self) => {
      await call.log('info', 'first')
      await self.stop(call)
      if (call.instance === 'b') await new Promise<never>(() => undefined)
      await call.update(addOne)
      return {}
    })
    await scene.stopped
    await scene.takeOver()
    scene.wake()
    await scene.a.router.idle()
    expect(await scene.state()).toBe(0)
    expect((await scene.log()).at(-1)).toEqual({ kind: 'taken', by: 'b' })
  })

  it('is ended when ten processes have come no further with it', async () => {
    const scene = await begin(async (call) => {
      await call.log('info', 'first')
      if (call.instance === 'later') await call.log('info', 'further')
      return new Promise<never>(() => undefined)
    })
    await until(scene.log, (log) => log.some(({ kind }) => kind === 'message'))
    for (let count = 0; count < 9; count++) await scene.takeOver(scene.start('c'))
    await scene.takeOver(scene.start('later'))
    await until(scene.said, (said) => said.length === 2)
    for (let count = 0; count < 10; count++) {
      expect((await scene.log()).at(-1)?.kind).not.toBe('end')
      await scene.takeOver(scene.start('c'))
    }
    const { error } = await scene.finish(scene.start('c'))
    expect(error?.data?.type).toBe('call_interrupted')
  })
})

describe('a tool that does something else when it runs again', () => {
  it.each<[what: string, run: (call: Call) => Promise<unknown>]>([
    ['another thing', (call) => call.sleep(1)],
    ['a step of another name', (call) => call.step('refund', async () => 1)],
    ['an update in its place', (call) => call.update(addOne)],
    ['a question in its place', (call) => call.elicit(form)],
    ['nothing more', () => Promise.resolve()],
  ])('is stopped: %s', async (_what, instead) => {
    const scene = await begin(async (call, self) => {
      await call.log('info', 'first')
      if (call.instance === 'a') await call.step('pay', async () => 1)
      // What it is told by that it may well take for the failure of what it did.
      else await instead(call).catch(() => undefined)
      await self.stop(call)
      await call.update(addOne).catch(() => undefined)
      await call.log('info', 'second').catch(() => undefined)
      return {}
    })
    await scene.stopped
    const { error } = await scene.finish()
    expect(error?.data?.type).toBe('call_not_deterministic')
    expect(error?.message).toContain('step pay')
    expect(await scene.state()).toBe(0)
    expect(await scene.said()).toEqual(['first'])
  })

  it('is stopped: it ends early', async () => {
    const scene = await begin(async (call, self) => {
      await call.log('info', 'first')
      if (call.instance === 'a') await call.log('info', 'second')
      await self.stop(call)
      return {}
    })
    await scene.stopped
    const { error } = await scene.finish()
    expect(error?.data?.type).toBe('call_not_deterministic')
    expect(error?.message).toContain('it ended before its operation 2')
  })
})

describe('what a call records', () => {
  it('is nothing if it only reads and updates: it is one commit then', async () => {
    const commits: Commit[] = []
    const stored = createLocalStore({})
    const commit: SessionStore['commit'] = (id, one) => {
      commits.push(one)
      return stored.commit(id, one)
    }
    const { fetch } = createLocalApp({
      store: { ...stored, commit },
      pack: packOf(async (call) => {
        await call.read()
        await call.update(addOne)
        const { n: between } = await call.read()
        await call.now()
        return { between: Number(between), n: n.get(await call.update(addOne)) }
      }),
    })
    const session = await openSession(fetch)
    commits.length = 0
    expect(await callTool(fetch, session, 'run')).toEqual({ between: 1, n: 2 })
    expect(commits).toEqual([{ change: { from: 0, state: { n: 2 } } }])
  })

  it('is bound in its length', async () => {
    const scene = await begin(async (call) => {
      await call.log('info', 'first')
      for (let count = 0; count < 5; count++) {
        await call.step('read', async () => 'x'.repeat(2_500_000)).catch(() => undefined)
        await call.update(addOne).catch(() => undefined)
      }
      return {}
    })
    const { error } = await scene.finish(scene.a)
    expect(error?.data?.type).toBe('journal_full')
    // Of what would have gone past it nothing was kept, and nothing that came later.
    expect(await scene.state()).toBe(3)
  })

  it('is bound in the number of its entries', async () => {
    const scene = await begin(async (call) => {
      await call.log('info', 'first')
      for (let count = 0; count < 50_000; count++) await call.now()
      await call.log('info', 'second').catch(() => undefined)
      await call.update(addOne).catch(() => undefined)
      return {}
    })
    const { error } = await scene.finish(scene.a)
    expect(error?.data?.type).toBe('journal_full')
    expect(await scene.said()).toEqual(['first'])
    expect(await scene.state()).toBe(0)
  })

  it('counts what earlier runs have recorded', async () => {
    const scene = await begin(async (call, self) => {
      await call.step('read', async () => 'x'.repeat(5_000_000))
      await self.stop(call)
      await call.step('read', async () => 'x'.repeat(5_000_000))
      return {}
    })
    await scene.stopped
    expect((await scene.finish()).error?.data?.type).toBe('journal_full')
  })
})

// Each was found by the simulation.
describe('a call in trouble', () => {
  it('keeps what others have changed while it spoke', async () => {
    const scene = await begin(async (call, self) => {
      await call.log('info', 'first')
      await self.stop(call)
      await call.log('info', 'second')
      return { n: n.get(await call.update(addOne)) }
    })
    await scene.stopped
    await callTool(scene.b.fetch, scene.session, 'add')
    scene.wake()
    expect((await scene.finish(scene.a)).result?.structuredContent).toEqual({ n: 2 })
    expect(await scene.state()).toBe(2)
  })

  it('is refused, not failed, if it reads while the store is away', async () => {
    const { store, failNext } = createFlaky(createLocalStore({}))
    const run = async (call: Call): Promise<JsonObject> => ({ n: n.get(await call.read()) })
    const { fetch } = createLocalApp({ store, pack: packOf(run) })
    const session = await openSession(fetch)
    failNext('load')
    expect((await send(fetch, session, toolCall('run'))).status).toBe(503)
    expect(await callTool(fetch, session, 'run')).toEqual({ n: 0 })
  })

  it('goes on elsewhere, and is not failed, if it reads while the store is away', async () => {
    const { store, failNext } = createFlaky(createLocalStore({}))
    const scene = await begin(
      async (call, self) => {
        await call.log('info', 'first')
        await self.stop(call)
        return { n: n.get(await call.read()) }
      },
      { store },
    )
    await scene.stopped
    failNext('load')
    scene.wake()
    await scene.a.router.idle()
    expect((await scene.finish()).result?.structuredContent).toEqual({ n: 0 })
  })

  it('is followed on by its client when its stream could not be read for a while', async () => {
    const { store, failNext } = createFlaky(createLocalStore({}))
    const scene = await begin(
      async (call, self) => {
        await call.log('info', 'first')
        await self.stop(call)
        await call.log('info', 'second')
        return {}
      },
      { store },
    )
    await scene.stopped
    const events = scene.follow()
    // The priming event, and what was said before.
    for (const _ of [1, 2]) await events.next()
    failNext('entries')
    scene.wake()
    const rest = await collect(events)
    expect(rest.map(({ data }) => data)).toEqual([
      expect.stringContaining('second'),
      expect.stringContaining('"result"'),
    ])
  })

  it('goes on elsewhere, from what is left, if the store has lost its last entries', async () => {
    const { store, forget } = createForgetful()
    const scene = await begin(
      async (call, self) => {
        await call.log('info', 'first')
        await call.log('info', 'second')
        await self.stop(call)
        return { n: n.get(await call.update(addOne)) }
      },
      { store },
    )
    await scene.stopped
    await forget(1)
    scene.wake()
    await scene.a.router.idle()
    expect(await scene.said()).toEqual(['first'])
    expect((await scene.finish()).result?.structuredContent).toEqual({ n: 1 })
    expect(await scene.said()).toEqual(['first', 'second'])
  })

  it('is not taken for another that has come as far since the store lost it', async () => {
    const { store, forget } = createForgetful()
    const scene = await begin(
      async (call, self) => {
        for (const word of ['first', 'second', 'third']) await call.log('info', word)
        await self.stop(call)
        return { n: n.get(await call.update(addOne)) }
      },
      { store },
    )
    await scene.stopped
    await forget(2)
    await scene.finish()
    const log = await scene.log()
    scene.wake()
    await scene.a.router.idle()
    expect(await scene.log()).toEqual(log)
    expect(await scene.state()).toBe(1)
  })

  it('is told that a question was not answered, also if the store is away just then', async () => {
    const clock = createTestClock()
    const { store, failNext } = createFlaky(createLocalStore({ clock }))
    const scene = await begin(
      async (call) => ({ told: await call.elicit(form).then(() => '', String) }),
      { clock, store, env: { SESSION_TTL_SECONDS: '10' } },
    )
    await scene.question()
    failNext('entries')
    for (let count = 0; count < 60; count++) {
      clock.turn(1000)
      await settled()
    }
    expect((await scene.log()).at(-1)?.kind).toBe('end')
  })

  it('hears an answer that it could not read when it was told of it', async () => {
    const clock = createTestClock()
    const { store, failNext } = createFlaky(createLocalStore({ clock }))
    const scene = await begin(howMany, { clock, store })
    const question = await scene.question()
    // The first is asked for by the answer itself, the second by the call.
    failNext('entries', 1)
    await answer(scene.a, scene.session, question, 2)
    for (let count = 0; count < 10; count++) {
      clock.turn(1000)
      await settled()
    }
    expect((await scene.log()).at(-1)?.kind).toBe('end')
  })

  it('hears an answer that came while it was taken over', async () => {
    const clock = createTestClock()
    const stored = createLocalStore({ clock })
    const taken = Promise.withResolvers<void>()
    const slow: SessionStore = {
      ...stored,
      async commit(id, commit) {
        const outcome = await stored.commit(id, commit)
        if (commit.append?.[0]?.entries[0]?.kind === 'taken') await taken.promise
        return outcome
      },
    }
    const scene = await begin(howMany, {
      clock,
      store: stored,
    })
    const question = await scene.question()
    const b = scene.start('b', slow)
    const takeOver = scene.takeOver(b)
    await until(scene.log, (log) => log.at(-1)?.kind === 'taken')
    await answer(scene.start('c'), scene.session, question, 2)
    taken.resolve()
    await takeOver
    for (let count = 0; count < 10; count++) {
      clock.turn(1000)
      await settled()
    }
    expect((await scene.log()).at(-1)?.kind).toBe('end')
  })

  it('ends as cancelled if its commit was refused when it was cancelled', async () => {
    const stored = createLocalStore({})
    const refused = Promise.withResolvers<void>()
    const asked = Promise.withResolvers<void>()
    const store: SessionStore = {
      ...stored,
      async commit(id, commit) {
        if (commit.change === undefined) return stored.commit(id, commit)
        asked.resolve()
        await refused.promise
        return { kind: 'conflict' }
      },
    }
    const run = async (call: Call): Promise<JsonObject> => ({ n: n.get(await call.update(addOne)) })
    const env = { QUICK_REPLY_MS: '1000000' }
    const { fetch } = createLocalApp({ store, env, pack: packOf(run) })
    const session = await openSession(fetch)
    const reply = rpc(fetch, session, toolCall('run', {}, 7))
    await asked.promise
    const params = { requestId: 7 }
    const cancelled = { jsonrpc: '2.0', method: 'notifications/cancelled', params }
    const cancel = send(fetch, session, cancelled)
    await settled()
    refused.resolve()
    expect((await reply).error?.code).toBe(-32800)
    expect((await cancel).status).toBe(202)
  })
})

const START = 1_700_000_000_000
const NEW = 'new'

type Run = (call: Call, scene: Scene) => Promise<JsonObject>

interface SceneOptions {
  readonly clock?: Clock
  readonly store?: SessionStore
  readonly env?: Record<string, string>
  /** What the client sets before its call. */
  readonly level?: string
}

/** A call that begins at `a`, and others that may go on with it. */
interface Scene {
  readonly a: LocalApp
  readonly b: LocalApp
  readonly session: string
  /** A session whose `n` is 1. */
  readonly other: string
  /** Makes `call` wait where it is, if it runs at `a`. */
  stop(call: Call): Promise<void>
  /** Resolves when it waits. */
  readonly stopped: Promise<void>
  wake(): void
  readonly counts: Map<string, number>
  readonly count: (what: string) => number
  /** Starts another instance. */
  start(instance: string, store?: SessionStore): LocalApp
  takeOver(app?: LocalApp): Promise<void>
  /** The call's stream from its start, at `app`. */
  follow(app?: LocalApp): AsyncGenerator<SseEvent>
  /** The call's reply, after `app` has gone on with it. */
  finish(app?: LocalApp): Promise<RpcReply>
  readonly log: () => Promise<readonly Entry[]>
  /** The words of the call's messages. */
  readonly said: () => Promise<string[]>
  /** The id of the question that it asks. */
  question(): Promise<string>
  /** Begins session `id`. */
  beginAnother(id: string): Promise<void>
  /** `n` of the session. */
  state(): Promise<number>
}

/** Has a client call a tool that does `run`, and waits for its stream. */
async function begin(run: Run, options: SceneOptions = {}): Promise<Scene> {
  const { clock = systemClock, env = {}, store = createLocalStore({ clock }), level } = options
  const [stopped, woken] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()]
  const counts = new Map<string, number>()
  const start: Scene['start'] = (instance, itsStore = store) =>
    createLocalApp({
      store: itsStore,
      clock,
      env,
      instance,
      pack: packOf((call) => run(call, scene)),
    })
  const [a, b] = [start('a'), start('b')]
  const [session, other] = [await openSession(a.fetch), await openSession(a.fetch)]
  let stream = '' as StreamId
  const read: Scene['log'] = async () =>
    (await store.entries(session as SessionId, stream, 0))?.entries ?? []
  const takeOver: Scene['takeOver'] = (app = b) =>
    app.router.takeOver({ id: session as SessionId, stream })
  const scene: Scene = {
    a,
    b,
    session,
    other,
    stopped: stopped.promise,
    wake: () => woken.resolve(),
    async stop({ instance }) {
      if (instance !== 'a') return
      stopped.resolve()
      await woken.promise
    },
    counts,
    count(what) {
      const next = (counts.get(what) ?? 0) + 1
      counts.set(what, next)
      return next
    },
    start,
    takeOver,
    async *follow(app = a) {
      const headers = { ...GET_HEADERS, 'mcp-session-id': session, 'last-event-id': `${stream}.1` }
      yield* readEvents(await app.fetch(new Request(`${BASE}/mcp`, { headers })))
    },
    async finish(app = b) {
      if (app !== a) await takeOver(app)
      const events = await collect(scene.follow(app))
      return JSON.parse(events.at(-1)?.data ?? '') as RpcReply
    },
    log: read,
    said: async () => (await read()).flatMap((entry) => wordsOf(entry)),
    async question() {
      const asks = (one: Entry) => one.kind === 'message' && 'id' in one.message
      const asked = (await until(read, (log) => log.some(asks))).find(asks)
      const { id } = (asked as { message: { id: string } }).message
      return id
    },
    async beginAnother(id) {
      const loaded = await store.load(session as SessionId)
      if (loaded !== undefined) await store.commit(id as SessionId, { begin: loaded.record })
    },
    state: async () => n.get((await store.load(session as SessionId))?.record.state ?? {}),
  }
  await callTool(a.fetch, other, 'add')
  if (level !== undefined) await setLevel(a, session, level)
  const call = toolCall('run', {}, 1) as { params: object }
  const params = { ...call.params, _meta: { progressToken: 1 } }
  const events = readEvents(await send(a.fetch, session, { ...call, params }))
  stream = parseEventId((await events.next()).value?.id ?? '')?.stream ?? stream
  await events.return(undefined)
  return scene
}

const GET_HEADERS = { accept: 'text/event-stream', host: 'localhost' }

function packOf(run: (call: Call) => Promise<JsonObject>) {
  const input = z.strictObject({})
  const add = defineTool({
    name: 'add',
    description: 'Adds one',
    input,
    run: async (call) => ({ n: n.get(await call.update(addOne)) }),
  })
  const tested = defineTool({ name: 'run', description: 'Is under test', input, run })
  return { name: 'test', version: '0', tools: [add, tested] }
}

function addOne(state: JsonObject): JsonObject {
  return n.set(state, n.get(state) + 1)
}

async function howMany(call: Call): Promise<JsonObject> {
  const { action, content } = await call.elicit(form)
  return { action, n: Number(content?.['n']) }
}

function failing(count: number): never {
  throw new Error(`No ${count}`)
}

async function answer(app: LocalApp, session: string, id: string, count: number): Promise<void> {
  const result = { action: 'accept', content: { n: count } }
  await (await send(app.fetch, session, { jsonrpc: '2.0', id, result })).text()
}

async function setLevel({ fetch }: LocalApp, session: string, level: string): Promise<void> {
  await rpc(fetch, session, {
    jsonrpc: '2.0',
    id: 0,
    method: 'logging/setLevel',
    params: { level },
  })
}

function wordsOf(entry: Entry): string[] {
  if (entry.kind !== 'message' || !('params' in entry.message)) return []
  const { message, data } = entry.message.params as { message?: string; data?: { msg: string } }
  return [message ?? data?.msg ?? '']
}

/** A store that can be told to be away once: at the next call of a method, or at one after it. */
function createFlaky(store: SessionStore) {
  let awayAt: { method: string; skip: number } | undefined
  async function pass<T>(method: string, act: () => Promise<T>): Promise<T> {
    if (awayAt?.method !== method || awayAt.skip-- > 0) return act()
    awayAt = undefined
    throw new ServerError('store_unavailable', 'Cannot reach store')
  }
  const flaky: SessionStore = {
    ...store,
    load: (id, key) => pass('load', () => store.load(id, key)),
    entries: (id, stream, after) => pass('entries', () => store.entries(id, stream, after)),
  }
  const failNext = (method: 'load' | 'entries', skip = 0): void => {
    awayAt = { method, skip }
  }
  return { store: flaky, failNext }
}

/** A clock that stands still until it is turned. */
function createTestClock(): Clock & { turn(ms: number): void } {
  let time = START
  const timers = new Set<{ readonly at: number; readonly fire: () => void }>()
  return {
    now: () => time,
    timer(ms, fire) {
      const timer = { at: time + ms, fire }
      timers.add(timer)
      return () => timers.delete(timer)
    },
    turn(ms) {
      time += ms
      for (const timer of [...timers].toSorted((a, b) => a.at - b.at)) {
        if (timer.at <= time && timers.delete(timer)) timer.fire()
      }
    },
  }
}

/** Resolves when all has been done that need not wait for a timer. */
async function settled(): Promise<void> {
  for (let turn = 0; turn < 50; turn++) await new Promise((resolve) => void setImmediate(resolve))
}

/** A store that can come back as it was some commits ago. */
function createForgetful(): { store: SessionStore; forget: (commits: number) => Promise<void> } {
  let stored = createLocalStore({})
  const commits: [SessionId, Commit][] = []
  return {
    store: {
      load: (id, key) => stored.load(id, key),
      commit(id, commit) {
        commits.push([id, commit])
        return stored.commit(id, commit)
      },
      entries: (id, stream, after) => stored.entries(id, stream, after),
      running: (id) => stored.running(id),
      drop: (id) => stored.drop(id),
    },
    forget: async (count) => {
      stored = createLocalStore({})
      commits.splice(commits.length - count)
      for (const [id, commit] of commits) await stored.commit(id, commit)
    },
  }
}
