import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import type { Overview } from '../../mcp/operator.ts'
import { analysisTold, get, resuming, speakingCall, toldBy, type Told } from '../support/client.ts'
import { startFleet, type Fleet } from '../support/fleet.ts'
import { startNode } from '../support/node.ts'
import { NAMES_TO_CUT } from '../support/operator.ts'
import { startRedis } from '../support/redis.ts'
import {
  callTool,
  collect,
  openSession,
  readEvents,
  send,
  toolCall,
  until,
} from '../support/mcp.ts'

// Through HAProxy, as the page and the command line do.
describe('operators of a fleet', () => {
  let fleet: Fleet
  const ask = (path: string, method = 'GET'): Promise<Response> =>
    fetch(new URL(path, fleet.url), { method })
  const overview = async (): Promise<Overview> => (await ask('/admin/overview')).json()
  const statesIn = ({ instances }: Overview): string[] => instances.map(({ state }) => state)
  const allReady = (): Promise<Overview> =>
    until(overview, (now) => statesIn(now).join() === 'ready,ready,ready')

  beforeAll(async () => {
    fleet = await startFleet()
    await fleet.allAre('UP')
    await allReady()
  })
  afterAll(() => fleet.stop())

  /** Sessions with a call each, on as many instances as there are. */
  async function openSessions(count: number): Promise<readonly string[]> {
    const sessions: string[] = []
    while (sessions.length < count) {
      const session = await openSession(fleet.fetch)
      await callTool(fleet.fetch, session, 'increment_counter')
      sessions.push(session)
    }
    return sessions
  }

  /** What the board has of `session`, once that is `good`. */
  async function viewOf(
    session: string,
    good: (view: Overview['sessions']['latest'][number]) => boolean = () => true,
  ) {
    const find = async () =>
      (await overview()).sessions.latest.find(({ id }) => session.startsWith(id))
    const view = await until(find, (found) => found !== undefined && good(found))
    if (view === undefined) throw new Error('It is not on the board')
    return view
  }

  it('see the sessions of all instances, wherever they ask', async () => {
    const sessions = await openSessions(6)
    for (let n = 0; n < 3; n++) await callTool(fleet.fetch, sessions[0] ?? '', 'increment_counter')
    expect(await viewOf(sessions[0] ?? '', ({ calls }) => calls === 4)).toMatchObject({
      client: 'test 0',
      revision: '2025-11-25',
      principal: 'anonymous',
      streams: 0,
      running: 0,
    })
    const views = await Promise.all(sessions.map((session) => viewOf(session)))
    expect(new Set(views.map(({ holder }) => holder)).size).toBe(3)
    for (const { url } of fleet.map().instances) {
      const seen = (await (await fetch(`${url}/admin/overview`)).json()) as Overview
      expect(seen.sessions.total).toBeGreaterThanOrEqual(6)
      expect(seen.instances).toHaveLength(3)
    }
  })

  it.each(NAMES_TO_CUT)('see a client whose name is cut, or no text: %j', async (name, shown) => {
    const session = await openSession(fleet.fetch, { name, version: '1' })
    expect((await viewOf(session)).client).toBe(shown)
  })

  it('see streams and calls while they are there', async () => {
    const [session = ''] = await openSessions(1)
    const standalone = await fleet.fetch(get(session))
    const call = resuming(fleet.fetch, speakingCall(session, 'analyze_data', { num_items: 3 }))
    const told = collect(call)
    await viewOf(session, ({ streams, running }) => streams === 2 && running === 1)
    await told
    await viewOf(session, ({ streams, running }) => streams === 1 && running === 0)
    await standalone.body?.cancel()
    await viewOf(session, ({ streams }) => streams === 0)
  })

  it('see that an instance is lost, and where its sessions go on', async () => {
    // Several: one may have been at the other instance before, which has then nothing to restore.
    const sessions = await openSessions(6)
    const views = await Promise.all(
      sessions.map((session) => viewOf(session, ({ calls }) => calls === 1)),
    )
    const holder = views[0]?.holder ?? ''
    const moved = sessions.filter((_, at) => views[at]?.holder === holder)
    fleet.signal('supervisor', 'SIGSTOP')
    onTestFinished(() => fleet.signal('supervisor', 'SIGCONT'))
    fleet.signal(holder, 'SIGKILL')
    for (const session of moved) {
      const { instance } = await callTool(fleet.fetch, session, 'increment_counter')
      expect(instance).not.toBe(holder)
      const view = await viewOf(session, ({ calls }) => calls === 2)
      expect(view.holder).toBe(instance)
    }
    const isMoved = ({ id }: { readonly id: string }): boolean =>
      moved.some((session) => session.startsWith(id))
    const seen = await until(overview, ({ instances, failovers }) => {
      const isLost = instances.some(({ name, state }) => name === holder && state === 'lost')
      return isLost && failovers.some(isMoved)
    })
    expect(seen.failovers.find(isMoved)).toMatchObject({
      kind: 'restored',
      instance: expect.stringMatching(/^mcp-server-\d$/),
      from: holder,
      tookMs: expect.any(Number),
    })
    fleet.signal('supervisor', 'SIGCONT')
    await allReady()
  })

  it('end a session, wherever it is', async () => {
    for (const { url } of fleet.map().instances) {
      const [session = ''] = await openSessions(1)
      const stream = readEvents(await fleet.fetch(get(session)))
      await stream.next()
      const { name } = await viewOf(session)
      const events = readEvents(await fetch(`${url}/admin/sessions/${name}/events`))
      const ended = await fetch(`${url}/admin/sessions/${name}`, { method: 'DELETE' })
      expect(ended.status).toBe(204)
      expect(await collect(stream)).toEqual([])
      expect((await collect(events)).at(-1)?.data).toContain('"ended"')
      const refused = await send(fleet.fetch, session, toolCall('get_counter'))
      expect(refused.status).toBe(404)
      await until(
        () => ask(`/admin/sessions/${name}`),
        ({ status }) => status === 404,
      )
    }
  })

  it('follow what happens in a session, from any instance', async () => {
    const [session = ''] = await openSessions(1)
    const { name } = await viewOf(session)
    const followed = await Promise.all(
      fleet.map().instances.map(async ({ url }) => {
        const events = readEvents(await fetch(`${url}/admin/sessions/${name}/events`))
        return { events, first: events.next() }
      }),
    )
    // Whoever has subscribed hears it; to subscribe takes a moment.
    const heard = Promise.all(followed.map(({ first }) => first))
    let isHeard = false
    void heard.then(() => (isHeard = true))
    await until(
      () => callTool(fleet.fetch, session, 'increment_counter'),
      () => isHeard,
    )
    for (const { value } of await heard) {
      expect(JSON.parse(value?.data ?? '')).toMatchObject({ kind: 'changed' })
    }
    await Promise.all(followed.map(({ events }) => events.return(undefined)))
  })

  it('drain an instance, of which its clients see nothing, and have it serve again', async () => {
    const sessions = await openSessions(200)
    const held = await until(overview, ({ instances }) =>
      instances.every((one) => one.sessions > 50),
    )
    const [{ name: drained } = { name: '' }] = held.instances
    const streams = await Promise.all(sessions.slice(0, 50).map((session) => keepOpen(session)))
    const calls = sessions.slice(50, 60).map((session) => analyze(session))
    const stop = new AbortController()
    const failed: unknown[] = []
    const load = sessions.slice(60).map(async (session) => {
      let count = 1
      while (!stop.signal.aborted) {
        const { counter } = await callTool(fleet.fetch, session, 'increment_counter')
        if (counter !== ++count) failed.push(`${count} calls and ${String(counter)}`)
      }
    })

    expect((await ask(`/admin/instances/${drained}/drain`, 'POST')).status).toBe(202)
    const isEmpty = ({ instances }: Overview): boolean => {
      const one = instances.find(({ name }) => name === drained)
      return one?.state === 'draining' && one.streams === 0 && one.running === 0
    }
    await until(overview, isEmpty)
    await until(fleet.servers, (all) => all.some(({ status }) => status === 'DOWN'))
    for (const stream of streams) await stream.resumed(drained)
    for (const told of await Promise.all(calls)) {
      expect(told).toEqual(
        analysisTold(3).map((text) =>
          typeof text === 'string' ? text : expect.stringMatching(text),
        ),
      )
    }
    stop.abort()
    await Promise.all(load)
    expect(failed).toEqual([])
    const served = await Promise.all(
      sessions.map((session) => callTool(fleet.fetch, session, 'get_counter')),
    )
    expect(served.map(({ instance }) => instance)).not.toContain(drained)

    // What comes all the same is served.
    const { url = '' } = fleet.map().instances.find(({ id }) => id === drained) ?? {}
    const direct = (request: Request): Promise<Response> =>
      fetch(new Request(new URL(new URL(request.url).pathname, url), request))
    await callTool(direct, sessions[0] ?? '', 'increment_counter')

    // It is the name that is drained, whatever process has it.
    fleet.signal(drained, 'SIGKILL')
    const before = held.instances.find(({ name }) => name === drained)?.startedAt ?? 0
    await until(overview, ({ instances }) =>
      instances.some(
        ({ name, startedAt, state }) =>
          name === drained && startedAt > before && state === 'draining',
      ),
    )
    expect((await ask(`/admin/instances/${drained}/undrain`, 'POST')).status).toBe(202)
    await allReady()
    await fleet.allAre('UP')
    for (const stream of streams) await stream.close()
  })

  /** A session's own stream, as a client keeps it open that resumes it. */
  async function keepOpen(session: string) {
    const state = { last: '', opened: 0, over: false, response: await fleet.fetch(get(session)) }
    async function follow(): Promise<void> {
      while (!state.over) {
        state.opened++
        for await (const { id } of readEvents(state.response)) state.last = id || state.last
        if (!state.over) state.response = await fleet.fetch(get(session, state.last))
      }
    }
    const following = follow().catch(() => undefined)
    const { holder } = await viewOf(session)
    return {
      /** Waits until it is followed elsewhere, if it was followed on `drained`. */
      async resumed(drained: string) {
        if (holder === drained)
          await until(
            async () => state.opened,
            (opened) => opened > 1,
          )
        expect(state.response.status).toBe(200)
        await viewOf(session, ({ streams }) => streams === 1)
      },
      async close() {
        state.over = true
        await fleet.fetch(
          new Request('http://localhost/mcp', {
            method: 'DELETE',
            headers: { 'mcp-session-id': session },
          }),
        )
        await following
      },
    }
  }

  async function analyze(session: string): Promise<readonly string[]> {
    const request = speakingCall(session, 'analyze_data', { num_items: 3 })
    const events = await collect(resuming(fleet.fetch, request))
    const messages = events.map(({ data }) => JSON.parse(data) as Told)
    return messages.filter(({ method }) => method !== undefined).map(toldBy)
  }
})

it('operators are told that the store is away', async () => {
  const redis = await startRedis()
  const node = await startNode({ REDIS_URL: redis.url })
  onTestFinished(async () => void (await node.kill('SIGKILL')))
  await redis.stop()
  const session = '/admin/sessions/0123456789abcdef'
  for (const [method, path] of [
    ['GET', '/admin/overview'],
    ['GET', session],
    ['DELETE', session],
    ['GET', `${session}/events`],
    ['POST', '/admin/instances/node-1/drain'],
  ] as const) {
    const response = await fetch(`${node.url}${path}`, { method })
    expect(response.status).toBe(503)
    expect(response.headers.get('retry-after')).toBe('1')
    expect(await response.json()).toMatchObject({ error: { data: { type: 'store_unavailable' } } })
  }
})
