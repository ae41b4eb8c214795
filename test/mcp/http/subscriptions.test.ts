import type { ServerNotifier } from '@modelcontextprotocol/server'
import { describe, expect, it } from 'vitest'
import type { Principal } from '../../../mcp/session/ids.ts'
import { alone, type News, type Peers } from '../../../mcp/session/peers.ts'
import { tools } from '../../../mcp/tools/index.ts'
import type { SessionStore } from '../../../mcp/session/store.ts'
import { createLocalApp, createLocalStore } from '../../support/local-app.ts'
import { callTool, endSession, openSession, readEvents, type Fetch } from '../../support/mcp.ts'
import { createGate } from '../../support/rounds.ts'
import { ask, openHandle, replyTo, runTool, type Ask } from '../../support/stateless.ts'

const uriOf = (session: string) => `resource://session/${session}/summary`
const ACKNOWLEDGED = 'notifications/subscriptions/acknowledged'
const UPDATED = 'notifications/resources/updated'

interface Heard {
  readonly method?: string
  readonly result?: object
  readonly params?: {
    readonly uri?: string
    readonly notifications?: { readonly resourceSubscriptions?: string[] }
    readonly _meta?: Readonly<Record<string, unknown>>
  }
}

/** Listens to changes of `sessions`. */
async function listen(fetch: Fetch, sessions: readonly string[], more: Ask = {}) {
  return listenTo(fetch, { resourceSubscriptions: sessions.map(uriOf) }, more)
}

async function listenTo(fetch: Fetch, notifications: object, more: Ask = {}) {
  const events = readEvents(await fetch(ask('subscriptions/listen', { notifications }, more)))
  const next = async (): Promise<Heard | 'over'> => {
    const { value } = await events.next()
    return value === undefined ? 'over' : (JSON.parse(value.data) as Heard)
  }
  const first = (await next()) as Heard
  return {
    first,
    next,
    /** The URIs of the next messages, up to `last`. */
    async until(last: string): Promise<(string | undefined)[]> {
      const uris: (string | undefined)[] = []
      while (uris.at(-1) !== last) uris.push(((await next()) as Heard).params?.uri)
      return uris
    },
    close: () => events.return(undefined),
  }
}

const raise = (fetch: Fetch, session: string) => runTool(fetch, 'increment_counter', { session })

describe('who listens to sessions', () => {
  it('is told first what it will hear of: its own, and no others', async () => {
    const authenticate = ({ headers }: Request): Promise<Principal> =>
      Promise.resolve((headers.get('x-principal') ?? 'alice') as Principal)
    const { fetch } = createLocalApp({ authenticate })
    const bob = { headers: { 'x-principal': 'bob' } }
    const [mine, mine2] = [await openHandle(fetch), await openSession(fetch)]
    const his = String((await runTool(fetch, 'open_session', {}, bob))['session'])
    const stream = await listen(fetch, [mine, his, 'none', mine2, mine], { id: 'one' })
    expect(stream.first).toMatchObject({
      method: ACKNOWLEDGED,
      params: {
        notifications: { resourceSubscriptions: [uriOf(mine), uriOf(mine2)] },
        _meta: { 'io.modelcontextprotocol/subscriptionId': 'one' },
      },
    })
    await runTool(fetch, 'increment_counter', { session: his }, bob)
    await raise(fetch, mine)
    expect(await stream.next()).toMatchObject({
      method: UPDATED,
      params: { uri: uriOf(mine), _meta: { 'io.modelcontextprotocol/subscriptionId': 'one' } },
    })
    await stream.close()
  })

  it.each([
    ['no session of its own', { resourceSubscriptions: [uriOf('none'), 'x:y', ''] }],
    ['nothing', {}],
  ])('hears no more if it listens to %s', async (_what, notifications) => {
    const { fetch } = createLocalApp()
    const stream = await listenTo(fetch, notifications)
    expect(stream.first.params?.notifications).toEqual({})
    expect(await stream.next()).toMatchObject({ result: { resultType: 'complete' } })
    expect(await stream.next()).toBe('over')
  })

  it.each([
    ['no list of notifications', {}],
    ['URIs that are none', { notifications: { resourceSubscriptions: [5] } }],
    ['URIs that are no list', { notifications: { resourceSubscriptions: 'x' } }],
  ])('is refused with %s', async (_what, params) => {
    const { fetch } = createLocalApp()
    const reply = await replyTo(await fetch(ask('subscriptions/listen', params)))
    expect(reply.error?.code).toBe(-32602)
  })

  it('hears of each change once, on each of its streams, whoever made it', async () => {
    const { fetch } = createLocalApp()
    const [session, last] = [await openHandle(fetch), await openHandle(fetch)]
    const streams = [await listen(fetch, [session, last]), await listen(fetch, [last, session])]
    await raise(fetch, session)
    await callTool(fetch, session, 'increment_counter')
    await runTool(fetch, 'get_counter', { session })
    await runTool(fetch, 'add_note', { session, note: 'x' })
    await raise(fetch, last)
    for (const stream of streams) {
      const told = await stream.until(uriOf(last))
      expect(told).toEqual([session, session, session, last].map(uriOf))
      await stream.close()
    }
  })

  it('hears of one call once, however often it changed the state', async () => {
    const { fetch } = createLocalApp()
    const [session, last] = [await openHandle(fetch), await openHandle(fetch)]
    const stream = await listen(fetch, [session, last])
    const one = { idempotencyKey: 'one' }
    await runTool(fetch, 'increment_counter', { session }, one)
    await runTool(fetch, 'increment_counter', { session }, one)
    await raise(fetch, last)
    expect(await stream.until(uriOf(last))).toEqual([session, last].map(uriOf))
    await stream.close()
  })

  it.each(['by its body', 'by its signal'])('hears nothing once it has hung up %s', async (way) => {
    const listening = new Set<object>()
    const peers = {
      ...alone,
      listen() {
        const ear = {}
        listening.add(ear)
        return () => void listening.delete(ear)
      },
    }
    const { fetch } = createLocalApp({ peers })
    const [session, last] = [await openHandle(fetch), await openHandle(fetch)]
    const client = new AbortController()
    const gone = await listen(fetch, [session, last], { signal: client.signal })
    const stays = await listen(fetch, [session])
    // Some of it unread.
    for (let count = 0; count < 3; count++) await raise(fetch, last)
    if (way === 'by its signal') client.abort()
    else await gone.close()
    await raise(fetch, last)
    let read = 0
    while ((await gone.next()) !== 'over') read++
    expect(read).toBe(way === 'by its signal' ? 3 : 0)
    expect(listening.size).toBe(1)
    await raise(fetch, session)
    expect(await stays.until(uriOf(session))).toEqual([uriOf(session)])
    await stays.close()
    expect(listening.size).toBe(0)
    await raise(fetch, session)
    const again = await listen(fetch, [session])
    await raise(fetch, session)
    expect(await again.until(uriOf(session))).toEqual([uriOf(session)])
    await again.close()
  })

  it('hears of a version once, whoever tells of it, and how often', async () => {
    const ears: ((news: News) => void)[] = []
    const peers: Peers = {
      ...alone,
      listen(_id, hear) {
        ears.push(hear)
        return () => undefined
      },
    }
    const { fetch } = createLocalApp({ peers })
    const [session, last] = [await openHandle(fetch), await openHandle(fetch)]
    const stream = await listen(fetch, [session, last])
    const tell = (version: number): void => ears[0]?.({ kind: 'changed', version })
    await raise(fetch, session)
    for (const version of [0, 1, 1, 2, 2, 1]) tell(version)
    ears[0]?.({ kind: 'missed' })
    await raise(fetch, last)
    expect(await stream.until(uriOf(last))).toEqual([session, session, last].map(uriOf))
    await stream.close()
  })

  it('is answered if one of them ends meanwhile', async () => {
    const store = createLocalStore({})
    const gate = createGate()
    let late = ''
    const load: SessionStore['load'] = async (id, asked) => {
      if (id === late) await gate.pass()
      return store.load(id, asked)
    }
    const { fetch } = createLocalApp({ store: { ...store, load } })
    const sessions = [await openHandle(fetch), await openHandle(fetch)]
    const [one = '', two = ''] = sessions
    late = two
    const listening = listen(fetch, sessions)
    await gate.reached
    await endSession(fetch, one)
    gate.open()
    const { first, next } = await listening
    expect(first.method).toBe(ACKNOWLEDGED)
    expect(await next()).toMatchObject({ result: {} })
    expect(await next()).toBe('over')
  })

  it('hears of changed lists, if it asked for them', async () => {
    let notifier: ServerNotifier | undefined
    const extend = (_server: unknown, given?: ServerNotifier): void => {
      notifier = given ?? notifier
    }
    const { fetch } = createLocalApp({ pack: { ...tools, extend } })
    const session = await openHandle(fetch)
    const both = { toolsListChanged: true, resourceSubscriptions: [uriOf(session)] }
    const stream = await listenTo(fetch, both)
    expect(stream.first.params?.notifications).toEqual(both)
    const other = await listen(fetch, [session])
    notifier?.toolsChanged()
    await raise(fetch, session)
    expect(await stream.next()).toMatchObject({ method: 'notifications/tools/list_changed' })
    for (const one of [stream, other]) {
      expect(await one.next()).toMatchObject({ method: UPDATED })
      await one.close()
    }
  })
})
