import { createStreamId } from '../mcp/session/ids.ts'
import type { Entry } from '../mcp/session/store.ts'
import {
  begin,
  change,
  equal,
  inSession,
  matches,
  message,
  onStore,
  reply,
  standalone,
  type Cases,
} from './cases.ts'

/** What a store keeps of a session's streams. */
export const streamCases: Cases = {
  'appends to a stream and reads on from any place': inSession(async ({ store, id }) => {
    const stream = createStreamId()
    equal(await store.entries(id, stream, 0), undefined)
    for (let at = 1; at <= 150; at += 2) {
      const entries = [message(at), message(at + 1)]
      await store.commit(id, { append: [{ stream, at, entries }] })
    }
    for (const after of [0, 1, 63, 64, 65, 128, 149, 150]) {
      const stored = await store.entries(id, stream, after)
      equal(stored?.at, after + 1)
      equal(
        stored?.entries,
        Array.from({ length: 150 - after }, (_, n) => message(after + 1 + n)),
      )
    }
  }),

  'says where a stream ends to who asks for what is behind': inSession(async ({ store, id }) => {
    const stream = createStreamId()
    const entries = Array.from({ length: 70 }, (_, n) => message(n))
    await store.commit(id, { append: [{ stream, at: 1, entries }] })
    equal(await store.entries(id, stream, 99), { at: 71, entries: [] })
    equal(await store.entries(id, standalone, Number.MAX_SAFE_INTEGER), { at: 1, entries: [] })
  }),

  'keeps the last of what is said outside calls, and all of a call': inSession(
    async ({ store, id }) => {
      const stream = createStreamId()
      const entries = Array.from({ length: 600 }, (_, n) => message(n))
      await store.commit(id, { append: [{ stream, at: 1, entries: [begun] }] })
      for (const at of [1, 601]) {
        await store.commit(id, { append: [{ stream: standalone, at, entries }] })
        await store.commit(id, { append: [{ stream, at: at + 1, entries }] })
      }
      const all = [...entries, ...entries]
      equal((await store.entries(id, stream, 0))?.entries, [begun, ...all])
      const { at = 0, entries: kept = [] } = (await store.entries(id, standalone, 0)) ?? {}
      equal(at <= 1200 - 1023, true)
      equal(kept, all.slice(at - 1))
      const last = { at: 1200, entries: all.slice(1199) }
      equal(await store.entries(id, standalone, 1199), last)
      const next = { stream: standalone, at: 1201, entries: [message(1)] }
      equal((await store.commit(id, { append: [next] })).kind, 'committed')
    },
  ),

  'gives each place of a stream to one writer': inSession(async ({ store, id }) => {
    const stream = createStreamId()
    const append = [{ stream, at: 1, entries: [message(1)] }]
    equal((await store.commit(id, { append })).kind, 'committed')
    equal((await store.commit(id, { append })).kind, 'conflict')
    const gap = [{ stream, at: 3, entries: [message(3)] }]
    equal((await store.commit(id, { append: gap })).kind, 'conflict')
    equal((await store.entries(id, stream, 0))?.entries, [message(1)])
  }),

  'commits state, reply and entries together or not at all': inSession(async ({ store, id }) => {
    const stream = createStreamId()
    const refused = {
      ...change(0, { counter: 1 }),
      reply: reply('k', 1),
      append: [{ stream, at: 2, entries: [message(1)] }],
    }
    equal((await store.commit(id, refused)).kind, 'conflict')
    matches((await store.load(id))?.record, { version: 0, state: {} })
    equal(await store.entries(id, stream, 0), undefined)
    equal((await store.commit(id, { reply: reply('k', 1) })).kind, 'committed')
  }),

  'keeps entries of all kinds as they were written': inSession(async ({ store, id }) => {
    const stream = createStreamId()
    const all = everyKind()
    const [first, ...rest] = all
    await store.commit(id, { append: [{ stream, at: 1, entries: first ? [first] : [] }] })
    await store.commit(id, { append: [{ stream, at: 2, entries: rest }] })
    equal(await store.entries(id, stream, 0), { at: 1, entries: all })
    equal(await store.entries(id, stream, 3), { at: 4, entries: all.slice(3) })
  }),

  ...Object.fromEntries(
    ['answer', 'cancel', 'taken', 'did', 'end'].map((kind) => [
      `refuses what was written before its writer saw the "${kind}" of another`,
      inSession(async ({ store, id }) => {
        const stream = createStreamId()
        const others = everyKind().filter((entry) => entry.kind === kind)
        equal(others.length > 0, true)
        await store.commit(id, { append: [{ stream, at: 1, entries: [begun, message(1)] }] })
        await store.commit(id, { append: [{ stream, at: 3, entries: others }] })
        const stale = { stream, at: 3, entries: [message(2)] }
        const late = { ...change(0, { counter: 1 }), append: [stale] }
        equal(await store.commit(id, late), { kind: 'conflict' })
        equal(await store.commit(id, { append: [stale] }), { kind: 'conflict' })
        matches((await store.load(id))?.record, { version: 0, state: {} })
        const next = { stream, at: 3 + others.length, entries: [message(2)] }
        equal((await store.commit(id, { append: [next] })).kind, 'committed')
        const stored = await store.entries(id, stream, 0)
        equal(stored?.entries, [begun, message(1), ...others, message(2)])
      }),
    ]),
  ),

  'knows which calls run, however much they have said': inSession(async ({ store, id }) => {
    const [long, short, never] = [createStreamId(), createStreamId(), createStreamId()]
    equal(await store.running(id), [])
    await store.commit(id, { append: [{ stream: standalone, at: 1, entries: [message(1)] }] })
    await store.commit(id, { append: [{ stream: never, at: 1, entries: [message(1)] }] })
    equal(await store.running(id), [])
    for (const stream of [long, short]) {
      await store.commit(id, { append: [{ stream, at: 1, entries: [begun] }] })
    }
    for (let at = 2; at <= 150; at++) {
      await store.commit(id, { append: [{ stream: long, at, entries: [message(at)] }] })
    }
    equal((await store.running(id)).toSorted(), [long, short].toSorted())
    await store.commit(id, { append: [{ stream: long, at: 151, entries: [ended] }] })
    equal(await store.running(id), [short])
    await store.commit(id, { append: [{ stream: short, at: 2, entries: [message(2), ended] }] })
    equal(await store.running(id), [])
  }),

  'keeps a reply that is on a stream as long as that': inSession(
    async ({ store, id, advance, retentionMs }) => {
      const stream = createStreamId()
      const answer = { kind: 'stream', stream, id: 'mine' } as const
      const first = { key: 'client/k', fingerprint: 'f', answer }
      const answers = async (): Promise<void> => {
        matches((await store.load(id, first))?.reply, first)
        const again = { ...change(1, {}), reply: reply('client/k', 1) }
        matches(await store.commit(id, again), { kind: 'answered', reply: first })
      }
      // One of the same key, which has aged.
      await store.commit(id, { ...change(0, {}), reply: reply('client/k', 0) })
      await advance(retentionMs + 1)
      const opens = { stream, at: 1, entries: [begun] }
      equal((await store.commit(id, { reply: first, append: [opens] })).kind, 'committed')
      await advance(retentionMs + 1)
      await answers()
      await store.commit(id, { append: [{ stream, at: 2, entries: [ended] }] })
      await advance(retentionMs - 1)
      for (let from = 1; from < 33; from++) await store.commit(id, change(from, {}))
      await answers()
      await advance(2)
      for (let from = 33; from < 65; from++) await store.commit(id, change(from, {}))
      const isThere = (await store.entries(id, stream, 0)) !== undefined
      equal((await store.load(id, first))?.reply !== undefined, isThere)
    },
  ),

  'takes a call that begins and ends in one commit for one that has ended': inSession(
    async ({ store, id }) => {
      const append = [{ stream: createStreamId(), at: 1, entries: [begun, ended] }]
      await store.commit(id, { append })
      equal(await store.running(id), [])
    },
  ),

  'knows of no call that it refused to begin': inSession(async ({ store, id }) => {
    const append = [{ stream: createStreamId(), at: 1, entries: [begun] }]
    equal((await store.commit(id, { ...change(7, {}), append })).kind, 'conflict')
    equal(await store.running(id), [])
  }),

  'runs no call of a session that was dropped, has expired or never was': onStore(
    async ({ store, id, advance, ttlMs, graceMs }) => {
      const beginCall = async (): Promise<void> => {
        await store.commit(id, { begin })
        await store.commit(id, {
          append: [{ stream: createStreamId(), at: 1, entries: [begun] }],
        })
        equal((await store.running(id)).length, 1)
      }
      equal(await store.running(id), [])
      await beginCall()
      await store.drop(id)
      equal(await store.running(id), [])
      await beginCall()
      await advance(ttlMs + graceMs)
      equal(await store.running(id), [])
    },
  ),
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
