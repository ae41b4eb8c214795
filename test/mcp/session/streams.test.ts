import { expect, it } from 'vitest'
import { systemClock } from '../../../mcp/session/clock.ts'
import { createStreamId, type Principal, type SessionId } from '../../../mcp/session/ids.ts'
import type { SessionStore } from '../../../mcp/session/store.ts'
import { Followers } from '../../../mcp/session/streams.ts'
import { createLocalStore } from '../../support/local-app.ts'
import { collect } from '../../support/mcp.ts'
import { createGate } from '../../support/rounds.ts'

it('tells who follows a stream that another does now, also while it reads', async () => {
  const store = createLocalStore({})
  const [id, stream, gate] = ['s' as SessionId, createStreamId(), createGate()]
  const begin = { principal: 'me' as Principal, initialize: {}, standalone: stream }
  await store.commit(id, { begin })
  const entries: SessionStore['entries'] = async (...place) => {
    await gate.pass()
    return store.entries(...place)
  }
  const followers = new Followers(systemClock)
  const start = { stream, after: 0, ended: false }
  const { signal } = new AbortController()
  const told = collect(followers.follow({ ...store, entries }, id, start, signal))
  await gate.reached
  void followers.follow(store, id, start, signal).next()
  gate.open()
  expect(await told).toEqual([{ kind: 'superseded' }])
})
