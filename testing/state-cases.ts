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
import type { Principal } from '../mcp/session/ids.ts'
import type { Reply } from '../mcp/session/store.ts'

/** What a store keeps of a session and of its replies, and for how long. */
export const stateCases: Cases = {
  'knows nothing of a session that was never begun': onStore(async ({ store, id }) => {
    equal(await store.load(id), undefined)
    equal(await store.entries(id, standalone, 0), undefined)
    equal(await store.commit(id, change(0, { counter: 1 })), { kind: 'gone' })
    equal(await store.drop(id), false)
    equal(await store.load(id), undefined)
  }),

  'begins a session at version 0 with empty state': onStore(async ({ store, id }) => {
    equal(await store.commit(id, { begin }), { kind: 'committed', version: 0 })
    matches((await store.load(id))?.record, {
      ...begin,
      settings: { subscriptions: [] },
      state: {},
      version: 0,
    })
  }),

  'shows a session to its owner alone, whatever its client calls itself': onStore(
    async ({ store, id }) => {
      const initialize = { clientInfo: { name: '\ud800', version: '","principal":"you"' } }
      await store.commit(id, { begin: { ...begin, initialize } })
      matches((await store.load(id, { owner: begin.principal }))?.record, { version: 0 })
      for (const other of ['you', 'm', 'me2', ''].map((name) => name as Principal)) {
        equal(await store.load(id, { owner: other }), undefined)
      }
    },
  ),

  'does not begin a session twice': onStore(async ({ store, id }) => {
    await store.commit(id, { begin })
    await store.commit(id, change(0, { counter: 1 }))
    equal(await store.commit(id, { begin }), { kind: 'conflict' })
    matches((await store.load(id))?.record, { version: 1, state: { counter: 1 } })
  }),

  'refuses the second of two commits made from the same version': inSession(
    async ({ store, id }) => {
      matches(await store.commit(id, change(0, { counter: 1 })), { version: 1 })
      equal(await store.commit(id, change(0, { counter: 9 })), { kind: 'conflict' })
      matches((await store.load(id))?.record, { version: 1, state: { counter: 1 } })
    },
  ),

  'lets one of many racing commits through': inSession(async ({ store, id }) => {
    const racing = Array.from({ length: 10 }, (_, n) => store.commit(id, change(0, { n })))
    const kinds = (await Promise.all(racing)).map(({ kind }) => kind)
    equal(kinds.filter((kind) => kind === 'committed').length, 1)
    equal(kinds.filter((kind) => kind === 'conflict').length, 9)
  }),

  'keeps state of every JSON shape, and names that mean something elsewhere': inSession(
    async ({ store, id }) => {
      const state = {
        'a:b': [1, 1.5, -0.25, null, true, '', 'ü \u{1f980}\n"'],
        '*': { '?': { '{}': [] } },
        constructor: 'x',
      }
      await store.commit(id, change(0, state))
      equal((await store.load(id))?.record.state, state)
    },
  ),

  'keeps settings and leaves the version': inSession(async ({ store, id }) => {
    const settings = { logLevel: 'error', subscriptions: ['a:b'] }
    equal(await store.commit(id, { settings }), { kind: 'committed', version: 0 })
    matches((await store.load(id))?.record, { settings, version: 0 })
  }),

  'answers a key that it has a reply for with that reply, and changes nothing': inSession(
    async ({ store, id }) => {
      const first = reply('k', 1)
      await store.commit(id, { ...change(0, { counter: 1 }), reply: first })
      const again = await store.commit(id, { ...change(1, { counter: 2 }), reply: reply('k', 2) })
      matches(again, { kind: 'answered', reply: first })
      matches((await store.load(id))?.record, { version: 1, state: { counter: 1 } })
    },
  ),

  'finds the reply of a key, and none for another': inSession(async ({ store, id }) => {
    await store.commit(id, { reply: reply('k', 1) })
    matches((await store.load(id, { key: 'k' }))?.reply, reply('k', 1))
    equal((await store.load(id, { key: 'l' }))?.reply, undefined)
    equal((await store.load(id))?.reply, undefined)
  }),

  'has no reply any more that has aged': inSession(async ({ store, id, advance, retentionMs }) => {
    await store.commit(id, { reply: reply('k', 1) })
    await advance(retentionMs + 1)
    equal((await store.load(id, { key: 'k' }))?.reply, undefined)
    equal((await store.commit(id, { reply: reply('k', 2) })).kind, 'committed')
  }),

  'knows a reply before it minds the version': inSession(async ({ store, id }) => {
    await store.commit(id, { ...change(0, { counter: 1 }), reply: reply('k', 1) })
    const again = await store.commit(id, { ...change(0, { counter: 1 }), reply: reply('k', 1) })
    equal(again.kind, 'answered')
  }),

  'keeps no reply of a commit that it refused': inSession(async ({ store, id }) => {
    await store.commit(id, { ...change(7, { counter: 1 }), reply: reply('k', 1) })
    const fresh = await store.commit(id, { ...change(0, { counter: 1 }), reply: reply('k', 1) })
    equal(fresh, { kind: 'committed', version: 1 })
  }),

  'keeps the replies that their router has not settled': inSession(
    async ({ store, id, settles }) => {
      const sent = [
        { sender: 'a', number: 1, settled: 0 },
        { sender: 'a', number: 2, settled: 1 },
        { sender: 'a', number: 3, settled: 1 },
        { sender: 'b', number: 1, settled: 1 },
        { sender: 'a', number: 4, settled: 3 },
      ].map((attempt) => ({ ...reply(`${attempt.sender}/${attempt.number}`, 1), attempt }))
      for (const one of sent) await store.commit(id, { reply: one })
      const found = []
      for (const one of sent) found.push((await store.load(id, one))?.reply !== undefined)
      equal(found, [!settles, !settles, true, true, true])
    },
  ),

  'tells the attempts of a sender apart that sends one after the other': inSession(
    async ({ store, id }) => {
      const sent = (number: number): Reply => {
        const attempt = { sender: 'a', number, settled: number }
        return { ...reply(`a/${number}`, number), attempt }
      }
      for (const number of [1, 2]) {
        const one = sent(number)
        equal((await store.load(id, one))?.reply, undefined)
        const outcome = await store.commit(id, { ...change(number - 1, { number }), reply: one })
        equal(outcome, { kind: 'committed', version: number })
      }
      const again = await store.commit(id, { ...change(1, { number: 9 }), reply: sent(2) })
      matches(again, { kind: 'answered', reply: sent(2) })
      matches((await store.load(id, sent(2)))?.reply, sent(2))
      matches((await store.load(id))?.record, { version: 2, state: { number: 2 } })
    },
  ),

  'has an empty standalone stream from the beginning': inSession(async ({ store, id }) => {
    equal(await store.entries(id, standalone, 0), { at: 1, entries: [] })
  }),

  'ends everything of a session at once': inSession(async ({ store, id }) => {
    await store.commit(id, { append: [{ stream: standalone, at: 1, entries: [message(1)] }] })
    equal(await store.drop(id), true)
    equal(await store.load(id), undefined)
    equal(await store.entries(id, standalone, 0), undefined)
    equal(await store.commit(id, change(0, { counter: 1 })), { kind: 'gone' })
    equal(await store.drop(id), false)
  }),

  'lets a session live as long as it is used, and ends it when it was not': inSession(
    async ({ store, id, advance, ttlMs, graceMs }) => {
      for (let use = 0; use < 5; use++) {
        await advance(ttlMs - graceMs)
        matches(await store.load(id), {})
        await advance(ttlMs - graceMs)
        equal((await store.commit(id, change(use, { use }))).kind, 'committed')
      }
      await advance(ttlMs + graceMs)
      equal(await store.load(id), undefined)
      equal(await store.commit(id, change(5, {})), { kind: 'gone' })
      equal(await store.entries(id, standalone, 0), undefined)
    },
  ),
}
