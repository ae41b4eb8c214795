import { describe, expect, it } from 'vitest'
import type { LogEvent } from '../../../mcp/log.ts'
import { ServerError } from '../../../mcp/errors.ts'
import { systemClock, type Clock } from '../../../mcp/session/clock.ts'
import { QUIET_SWEEPS } from '../../../mcp/session/held-sessions.ts'
import { alone, type Peers } from '../../../mcp/session/peers.ts'
import type { SessionStore } from '../../../mcp/session/store.ts'
import { createLocalApp, createLocalStore, type LocalApp } from '../../support/local-app.ts'
import {
  BASE,
  callTool,
  endSession,
  openSession,
  send,
  toolCall,
  until,
} from '../../support/mcp.ts'

describe('an instance that holds sessions', () => {
  it('holds as many as it may, the last ones used, and restores the others', async () => {
    const app = createLocalApp({ maxLive: 2 })
    const sessions = await Promise.all([1, 2, 3].map(() => openSession(app.fetch)))
    for (const round of [1, 2, 3]) {
      for (const session of sessions) {
        const { counter } = await callTool(app.fetch, session, 'increment_counter')
        expect(counter).toBe(round)
      }
    }
    expect(restored(app).length).toBeGreaterThanOrEqual(6)
  })

  it('keeps one whose call runs, however many come after it', async () => {
    const app = createLocalApp({ maxLive: 1 })
    const [busy, other] = [await openSession(app.fetch), await openSession(app.fetch)]
    const call = callTool(app.fetch, busy, 'analyze_data', { num_items: 1 })
    await callTool(app.fetch, other, 'increment_counter')
    expect(await call).toMatchObject({ items_processed: 1 })
  })

  it('answers each of many calls at once, whichever session is let go meanwhile', async () => {
    const app = createLocalApp({ maxLive: 1 })
    const sessions = await Promise.all(Array.from({ length: 8 }, () => openSession(app.fetch)))
    const calls = Array.from({ length: 200 }, (_, n) =>
      callTool(app.fetch, sessions[n % 8] ?? '', 'increment_counter'),
    )
    const counters = (await Promise.all(calls)).map(({ counter }) => Number(counter))
    expect(counters.reduce((sum, counter) => sum + counter, 0)).toBe((8 * 25 * 26) / 2)
  })

  it('listens to the sessions whose streams are followed, and to no others', async () => {
    const heard = new Set<string>()
    const peers: Peers = {
      ...alone,
      listen(id) {
        heard.add(id)
        return () => void heard.delete(id)
      },
    }
    const app = createLocalApp({ peers })
    const ids = [await openSession(app.fetch), await openSession(app.fetch)]
    const streams = await Promise.all(
      ids.map((id) => {
        const headers = { accept: 'text/event-stream', 'mcp-session-id': id }
        return app.fetch(new Request(`${BASE}/mcp`, { headers }))
      }),
    )
    expect([...heard]).toEqual(ids)
    await streams[0]?.body?.cancel()
    expect([...heard]).toEqual(ids.slice(1))
    await endSession(app.fetch, ids[1] ?? '')
    await streams[1]?.text()
    expect([...heard]).toEqual([])
  })

  it('lets go of what nobody used for a while, and says when nothing is left', async () => {
    const liveIdleMs = 20_000
    let [now, sweeps, quiet] = [Date.now(), 0, 0]
    let due: (() => void) | undefined
    const clock: Clock = {
      now: () => now,
      timer(ms, fire) {
        if (ms !== liveIdleMs) return systemClock.timer(ms, fire)
        due = fire
        return () => undefined
      },
    }
    const app = createLocalApp({ clock, liveIdleMs, onQuiet: () => void quiet++ })
    const session = await openSession(app.fetch)
    await callTool(app.fetch, session, 'increment_counter')
    const sweep = async (): Promise<number> => {
      if (due === undefined) return quiet
      const fire = due
      due = undefined
      now += liveIdleMs
      sweeps++
      fire()
      return quiet
    }
    await until(sweep, (times) => times > 0)
    // The first one lets go of it.
    expect(sweeps).toBeGreaterThan(QUIET_SWEEPS)
    expect(await callTool(app.fetch, session, 'get_counter')).toMatchObject({ counter: 1 })
    expect(restored(app)).toHaveLength(1)
  })
})

describe('an instance whose store is away', () => {
  it('answers what needs no state, refuses the rest, and has changed nothing', async () => {
    let away = false
    const app = createLocalApp({ store: reachedUnless(() => away) })
    const session = await openSession(app.fetch)
    await callTool(app.fetch, session, 'increment_counter')
    away = true
    for (const method of ['ping', 'tools/list', 'resources/list', 'resources/templates/list']) {
      const answer = await send(app.fetch, session, { jsonrpc: '2.0', id: 1, method })
      expect(answer.status).toBe(200)
      expect(await answer.json()).toHaveProperty('result')
    }
    for (const name of ['increment_counter', 'get_counter']) {
      const answer = await send(app.fetch, session, toolCall(name))
      expect(answer.status).toBe(503)
      expect(answer.headers.get('retry-after')).toBe('1')
      expect(await answer.json()).toMatchObject({ error: { data: { type: 'store_unavailable' } } })
    }
    away = false
    expect(await callTool(app.fetch, session, 'increment_counter')).toMatchObject({ counter: 2 })
  })

  it('is idle once it knows that a session cannot be restored', async () => {
    const store = createLocalStore({})
    const asked = Promise.withResolvers<void>()
    const away = Promise.withResolvers<never>()
    let opened = false
    const app = createLocalApp({
      maxLive: 1,
      store: {
        ...store,
        load(id, of) {
          if (!opened || of?.owner !== undefined) return store.load(id, of)
          asked.resolve()
          return away.promise
        },
      },
    })
    const [session] = [await openSession(app.fetch), await openSession(app.fetch)]
    opened = true
    const answer = send(app.fetch, session ?? '', toolCall('increment_counter'))
    await asked.promise
    const idle = app.router.idle()
    away.reject(new ServerError('store_unavailable', 'Away'))
    await expect(idle).resolves.toBeUndefined()
    expect((await answer).status).toBe(503)
  })
})

function restored(app: LocalApp): LogEvent[] {
  return app.events.filter(({ event }) => event === 'session_restored')
}

/** A store that answers nothing while `isAway` says so. */
function reachedUnless(isAway: () => boolean): SessionStore {
  const store = createLocalStore({})
  return new Proxy(store, {
    get(_, name: keyof SessionStore) {
      if (isAway()) return () => Promise.reject(new ServerError('store_unavailable', 'Away'))
      return store[name].bind(store)
    },
  })
}
