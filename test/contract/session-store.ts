import { describe, expect, it } from 'vitest'
import { createStreamId, type Principal, type SessionId } from '../../mcp/session/ids.ts'
import type { Commit, Entry, Reply, SessionStore } from '../../mcp/session/store.ts'

/** A fresh store, the id of a session that it does not hold yet, and a hand on its clock. */
interface StoreUnderTest {
  readonly store: SessionStore
  readonly id: SessionId
  readonly advance: (ms: number) => void | Promise<void>
  /** What the store does with an unused session after its time to live, in milliseconds. */
  readonly ttlMs: number
  /** A use may be recorded this much later than it was, never earlier. */
  readonly graceMs: number
  /** How long a reply record is kept. */
  readonly retentionMs: number
  /** Whether records go as soon as their router has settled them, or by age alone. */
  readonly settles: boolean
}

export type UseStore = (body: (under: StoreUnderTest) => Promise<void>) => Promise<void>

const standalone = createStreamId()
const begin = {
  principal: 'me' as Principal,
  initialize: { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: {} },
  standalone,
}

/** What every store must do, whatever it keeps sessions in. */
export function sessionStoreContract(name: string, useStore: UseStore): void {
  describe(`session store: ${name}`, () => {
    it('knows nothing of a session that was never begun', () =>
      useStore(async ({ store, id }) => {
        expect(await store.load(id)).toBeUndefined()
        expect(await store.entries(id, standalone, 0)).toBeUndefined()
        expect(await store.commit(id, change(0, { counter: 1 }))).toEqual({ kind: 'gone' })
        expect(await store.drop(id)).toBe(false)
        expect(await store.load(id)).toBeUndefined()
      }))

    it('begins a session at version 0 with empty state', () =>
      useStore(async ({ store, id }) => {
        expect(await store.commit(id, { begin })).toEqual({ kind: 'committed', version: 0 })
        expect((await store.load(id))?.record).toMatchObject({
          ...begin,
          settings: { subscriptions: [] },
          state: {},
          version: 0,
        })
      }))

    it('does not begin a session twice', () =>
      useStore(async ({ store, id }) => {
        await store.commit(id, { begin })
        await store.commit(id, change(0, { counter: 1 }))
        expect(await store.commit(id, { begin })).toEqual({ kind: 'conflict' })
        expect((await store.load(id))?.record).toMatchObject({ version: 1, state: { counter: 1 } })
      }))

    it('refuses the second of two commits made from the same version', () =>
      useBegun(useStore, async ({ store, id }) => {
        expect(await store.commit(id, change(0, { counter: 1 }))).toMatchObject({ version: 1 })
        expect(await store.commit(id, change(0, { counter: 9 }))).toEqual({ kind: 'conflict' })
        expect((await store.load(id))?.record).toMatchObject({ version: 1, state: { counter: 1 } })
      }))

    it('lets one of many racing commits through', () =>
      useBegun(useStore, async ({ store, id }) => {
        const racing = Array.from({ length: 10 }, (_, n) => store.commit(id, change(0, { n })))
        const kinds = (await Promise.all(racing)).map(({ kind }) => kind)
        expect(kinds.filter((kind) => kind === 'committed')).toHaveLength(1)
        expect(kinds.filter((kind) => kind === 'conflict')).toHaveLength(9)
      }))

    it('keeps state of every JSON shape, and names that mean something elsewhere', () =>
      useBegun(useStore, async ({ store, id }) => {
        const state = {
          'a:b': [1, 1.5, -0.25, null, true, '', 'ü \u{1f980}\n"'],
          '*': { '?': { '{}': [] } },
          constructor: 'x',
        }
        await store.commit(id, change(0, state))
        expect((await store.load(id))?.record.state).toEqual(state)
      }))

    it('keeps settings and leaves the version', () =>
      useBegun(useStore, async ({ store, id }) => {
        const settings = { logLevel: 'error', subscriptions: ['a:b'] }
        expect(await store.commit(id, { settings })).toEqual({ kind: 'committed', version: 0 })
        expect((await store.load(id))?.record).toMatchObject({ settings, version: 0 })
      }))

    it('answers a key that it has a reply for with that reply, and changes nothing', () =>
      useBegun(useStore, async ({ store, id }) => {
        const first = reply('k', 1)
        await store.commit(id, { ...change(0, { counter: 1 }), reply: first })
        const again = await store.commit(id, { ...change(1, { counter: 2 }), reply: reply('k', 2) })
        expect(again).toMatchObject({ kind: 'answered', reply: first })
        expect((await store.load(id))?.record).toMatchObject({ version: 1, state: { counter: 1 } })
      }))

    it('finds the reply of a key, and none for another', () =>
      useBegun(useStore, async ({ store, id }) => {
        await store.commit(id, { reply: reply('k', 1) })
        expect((await store.load(id, { key: 'k' }))?.reply).toMatchObject(reply('k', 1))
        expect((await store.load(id, { key: 'l' }))?.reply).toBeUndefined()
        expect((await store.load(id))?.reply).toBeUndefined()
      }))

    it('has no reply any more that has aged', () =>
      useBegun(useStore, async ({ store, id, advance, retentionMs }) => {
        await store.commit(id, { reply: reply('k', 1) })
        await advance(retentionMs + 1)
        expect((await store.load(id, { key: 'k' }))?.reply).toBeUndefined()
        expect((await store.commit(id, { reply: reply('k', 2) })).kind).toBe('committed')
      }))

    it('knows a reply before it minds the version', () =>
      useBegun(useStore, async ({ store, id }) => {
        await store.commit(id, { ...change(0, { counter: 1 }), reply: reply('k', 1) })
        const again = await store.commit(id, { ...change(0, { counter: 1 }), reply: reply('k', 1) })
        expect(again.kind).toBe('answered')
      }))

    it('keeps no reply of a commit that it refused', () =>
      useBegun(useStore, async ({ store, id }) => {
        await store.commit(id, { ...change(7, { counter: 1 }), reply: reply('k', 1) })
        const fresh = await store.commit(id, { ...change(0, { counter: 1 }), reply: reply('k', 1) })
        expect(fresh).toEqual({ kind: 'committed', version: 1 })
      }))

    it('keeps the replies that their router has not settled', () =>
      useBegun(useStore, async ({ store, id, settles }) => {
        for (const number of [1, 2, 3]) {
          const attempt = { sender: 'a', number }
          await store.commit(id, { reply: { ...reply(`a/${number}`, number), attempt } })
        }
        await store.commit(id, {
          reply: { ...reply('b/1', 1), attempt: { sender: 'b', number: 1 } },
        })
        await store.commit(id, { reply: reply('mine', 1), settled: { sender: 'a', below: 3 } })
        const kinds = []
        for (const key of ['a/1', 'a/2', 'a/3', 'b/1', 'mine']) {
          kinds.push((await store.commit(id, { reply: reply(key, 0) })).kind)
        }
        const settled = settles ? 'committed' : 'answered'
        expect(kinds).toEqual([settled, settled, 'answered', 'answered', 'answered'])
      }))

    it('appends to a stream and reads on from any place', () =>
      useBegun(useStore, async ({ store, id }) => {
        const stream = createStreamId()
        expect(await store.entries(id, stream, 0)).toBeUndefined()
        for (let at = 1; at <= 150; at += 2) {
          const entries = [message(at), message(at + 1)]
          await store.commit(id, { append: [{ stream, at, entries }] })
        }
        for (const after of [0, 1, 63, 64, 65, 128, 149, 150]) {
          const stored = await store.entries(id, stream, after)
          expect(stored?.at).toBe(after + 1)
          expect(stored?.entries).toEqual(
            Array.from({ length: 150 - after }, (_, n) => message(after + 1 + n)),
          )
        }
      }))

    it('gives each place of a stream to one writer', () =>
      useBegun(useStore, async ({ store, id }) => {
        const stream = createStreamId()
        const append = [{ stream, at: 1, entries: [message(1)] }]
        expect((await store.commit(id, { append })).kind).toBe('committed')
        expect((await store.commit(id, { append })).kind).toBe('conflict')
        const gap = [{ stream, at: 3, entries: [message(3)] }]
        expect((await store.commit(id, { append: gap })).kind).toBe('conflict')
        expect((await store.entries(id, stream, 0))?.entries).toEqual([message(1)])
      }))

    it('commits state, reply and entries together or not at all', () =>
      useBegun(useStore, async ({ store, id }) => {
        const stream = createStreamId()
        const refused = {
          ...change(0, { counter: 1 }),
          reply: reply('k', 1),
          append: [{ stream, at: 2, entries: [message(1)] }],
        }
        expect((await store.commit(id, refused)).kind).toBe('conflict')
        expect((await store.load(id))?.record).toMatchObject({ version: 0, state: {} })
        expect(await store.entries(id, stream, 0)).toBeUndefined()
        expect((await store.commit(id, { reply: reply('k', 1) })).kind).toBe('committed')
      }))

    it('keeps entries of all kinds as they were written', () =>
      useBegun(useStore, async ({ store, id }) => {
        const stream = createStreamId()
        const all = everyKind()
        const [first, ...rest] = all
        await store.commit(id, { append: [{ stream, at: 1, entries: first ? [first] : [] }] })
        await store.commit(id, { append: [{ stream, at: 2, entries: rest }] })
        expect(await store.entries(id, stream, 0)).toEqual({ at: 1, entries: all })
        expect(await store.entries(id, stream, 3)).toEqual({ at: 4, entries: all.slice(3) })
      }))

    it.each(['answer', 'cancel', 'taken', 'did', 'end'])(
      'refuses what was written before its writer saw the "%s" of another',
      (kind) =>
        useBegun(useStore, async ({ store, id }) => {
          const stream = createStreamId()
          const others = everyKind().filter((entry) => entry.kind === kind)
          expect(others.length).toBeGreaterThan(0)
          await store.commit(id, { append: [{ stream, at: 1, entries: [begun, message(1)] }] })
          await store.commit(id, { append: [{ stream, at: 3, entries: others }] })
          const stale = { stream, at: 3, entries: [message(2)] }
          const late = { ...change(0, { counter: 1 }), append: [stale] }
          expect(await store.commit(id, late)).toEqual({ kind: 'conflict' })
          expect(await store.commit(id, { append: [stale] })).toEqual({ kind: 'conflict' })
          expect((await store.load(id))?.record).toMatchObject({ version: 0, state: {} })
          const next = { stream, at: 3 + others.length, entries: [message(2)] }
          expect((await store.commit(id, { append: [next] })).kind).toBe('committed')
          const stored = await store.entries(id, stream, 0)
          expect(stored?.entries).toEqual([begun, message(1), ...others, message(2)])
        }),
    )

    it('knows which calls run, however much they have said', () =>
      useBegun(useStore, async ({ store, id }) => {
        const [long, short, never] = [createStreamId(), createStreamId(), createStreamId()]
        expect(await store.running(id)).toEqual([])
        await store.commit(id, { append: [{ stream: standalone, at: 1, entries: [message(1)] }] })
        await store.commit(id, { append: [{ stream: never, at: 1, entries: [message(1)] }] })
        expect(await store.running(id)).toEqual([])
        for (const stream of [long, short]) {
          await store.commit(id, { append: [{ stream, at: 1, entries: [begun] }] })
        }
        for (let at = 2; at <= 150; at++) {
          await store.commit(id, { append: [{ stream: long, at, entries: [message(at)] }] })
        }
        expect((await store.running(id)).toSorted()).toEqual([long, short].toSorted())
        await store.commit(id, { append: [{ stream: long, at: 151, entries: [ended] }] })
        expect(await store.running(id)).toEqual([short])
        await store.commit(id, { append: [{ stream: short, at: 2, entries: [message(2), ended] }] })
        expect(await store.running(id)).toEqual([])
      }))

    it('takes a call that begins and ends in one commit for one that has ended', () =>
      useBegun(useStore, async ({ store, id }) => {
        const append = [{ stream: createStreamId(), at: 1, entries: [begun, ended] }]
        await store.commit(id, { append })
        expect(await store.running(id)).toEqual([])
      }))

    it('knows of no call that it refused to begin', () =>
      useBegun(useStore, async ({ store, id }) => {
        const append = [{ stream: createStreamId(), at: 1, entries: [begun] }]
        expect((await store.commit(id, { ...change(7, {}), append })).kind).toBe('conflict')
        expect(await store.running(id)).toEqual([])
      }))

    it('runs no call of a session that was dropped, has expired or never was', () =>
      useStore(async ({ store, id, advance, ttlMs, graceMs }) => {
        const beginCall = async (): Promise<void> => {
          await store.commit(id, { begin })
          await store.commit(id, {
            append: [{ stream: createStreamId(), at: 1, entries: [begun] }],
          })
          expect(await store.running(id)).toHaveLength(1)
        }
        expect(await store.running(id)).toEqual([])
        await beginCall()
        await store.drop(id)
        expect(await store.running(id)).toEqual([])
        await beginCall()
        await advance(ttlMs + graceMs)
        expect(await store.running(id)).toEqual([])
      }))

    it('has an empty standalone stream from the beginning', () =>
      useBegun(useStore, async ({ store, id }) => {
        expect(await store.entries(id, standalone, 0)).toEqual({ at: 1, entries: [] })
      }))

    it('ends everything of a session at once', () =>
      useBegun(useStore, async ({ store, id }) => {
        await store.commit(id, { append: [{ stream: standalone, at: 1, entries: [message(1)] }] })
        expect(await store.drop(id)).toBe(true)
        expect(await store.load(id)).toBeUndefined()
        expect(await store.entries(id, standalone, 0)).toBeUndefined()
        expect(await store.commit(id, change(0, { counter: 1 }))).toEqual({ kind: 'gone' })
        expect(await store.drop(id)).toBe(false)
      }))

    it('lets a session live as long as it is used, and ends it when it was not', () =>
      useBegun(useStore, async ({ store, id, advance, ttlMs, graceMs }) => {
        for (let use = 0; use < 5; use++) {
          await advance(ttlMs - graceMs)
          expect(await store.load(id)).toBeDefined()
          await advance(ttlMs - graceMs)
          expect((await store.commit(id, change(use, { use }))).kind).toBe('committed')
        }
        await advance(ttlMs + graceMs)
        expect(await store.load(id)).toBeUndefined()
        expect(await store.commit(id, change(5, {}))).toEqual({ kind: 'gone' })
        expect(await store.entries(id, standalone, 0)).toBeUndefined()
      }))
  })
}

function useBegun(
  useStore: UseStore,
  body: (under: StoreUnderTest) => Promise<void>,
): Promise<void> {
  return useStore(async (under) => {
    await under.store.commit(under.id, { begin })
    await body(under)
  })
}

function change(from: number, state: NonNullable<Commit['change']>['state']): Commit {
  return { change: { from, state } }
}

function reply(key: string, value: number): Reply {
  return { key, fingerprint: 'f', answer: { kind: 'reply', outcome: { result: { value } } } }
}

function message(n: number): Entry {
  return { kind: 'message', message: { jsonrpc: '2.0', method: 'test', params: { n } } }
}

const begun: Entry = {
  kind: 'begin',
  request: {
    jsonrpc: '2.0',
    id: 'mine',
    method: 'tools/call',
    params: { name: 'n', '\ud83e\udd80': 0 },
  },
}
const ended: Entry = { kind: 'end', message: { jsonrpc: '2.0', id: 'mine', result: { a: [null] } } }

/** One of each kind, in each of its forms. */
function everyKind(): readonly Entry[] {
  const question = { jsonrpc: '2.0', id: 's/2', method: 'elicitation/create', params: {} } as const
  const state = { 'a:b': [1, null, 'ü \u{1f980}\n"'], nested: { deep: [{}] } }
  return [
    begun,
    message(1),
    { kind: 'message', op: 1, message: { jsonrpc: '2.0', method: 'told' } },
    { kind: 'message', op: 2, message: question, until: 1_795_000_000_000 },
    { kind: 'did', op: 3, what: 'sleep', value: 1_795_000_000_000 },
    { kind: 'did', op: 4, what: 'step "a b"', value: null },
    { kind: 'did', op: 5, what: 'step', error: 'Cannot do it: "x"' },
    { kind: 'did', op: 6, what: 'update', state },
    { kind: 'did', op: 7, what: 'read' },
    { kind: 'answer', op: 2, outcome: { result: { action: 'accept', content: { yes: true } } } },
    { kind: 'answer', op: 8, outcome: { error: { code: -1, message: 'no' } } },
    { kind: 'cancel' },
    { kind: 'taken', by: 'object-abc' },
    ended,
  ]
}
