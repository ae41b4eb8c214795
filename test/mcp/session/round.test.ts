import { describe, expect, it } from 'vitest'
import type { Call } from '../../../mcp/session/call.ts'
import type { JsonObject } from '../../../mcp/session/state.ts'
import type { SessionStore } from '../../../mcp/session/store.ts'
import { createLocalStore } from '../../support/local-app.ts'
import { isStream } from '../../support/mcp.ts'
import {
  add,
  addOne,
  createFlaky,
  createGate,
  createRounds,
  heard,
  n,
} from '../../support/rounds.ts'
import { askTool, openHandle, replyTo, runTool, type Ask } from '../../support/stateless.ts'

describe('a round whose client hangs up', () => {
  const PLACES = ['before', 'between', 'asleep', 'after'] as const
  const WAYS = ['by its signal', 'on a stream by its signal', 'on a stream by its body'] as const
  const cases = WAYS.flatMap((way) => PLACES.map((place) => [way, place] as const))

  it.each(cases)('changes nothing and does no more: %s, %s', async (way, place) => {
    const gate = createGate()
    const did: string[] = []
    const at = (here: string): unknown => here === place && gate.pass()
    const { a, session, state } = await createRounds(async (call) => {
      const act = async (what: string, operation: Promise<unknown>): Promise<void> => {
        await operation
        did.push(what)
      }
      await act('say', call.log('info', 'begun'))
      await at('before')
      await act('update', call.update(addOne))
      await at('between')
      await act('say', call.log('info', 'half'))
      const slept = act('sleep', call.sleep(place === 'asleep' ? 1e9 : 1))
      void at('asleep')
      await slept
      await act('update', call.update(addOne))
      await at('after')
      await act('read', call.read())
      return {}
    })
    const client = new AbortController()
    const level = way === 'by its signal' ? {} : { level: 'info' }
    const answer = a.fetch(askTool('run', { session }, { ...level, signal: client.signal }))
    await gate.reached
    const before = [...did]
    if (way === 'on a stream by its body') await (await answer).body?.cancel()
    else client.abort()
    gate.open()
    await a.router.idle()
    expect(did).toEqual(before)
    expect(await state()).toEqual({ n: 0, version: 0 })
    expect(await runTool(a.fetch, 'add', { session })).toEqual({ n: 1 })
  })

  it('changes nothing if it had hung up when the call came', async () => {
    let runs = 0
    const { a, session, state } = await createRounds(async (call) => {
      runs++
      return add(call)
    })
    const signal = AbortSignal.abort()
    void a.fetch(askTool('run', { session }, { signal }))
    expect(await runTool(a.fetch, 'add', { session })).toEqual({ n: 1 })
    await a.router.idle()
    expect(await state()).toEqual({ n: 1, version: 1 })
    expect(runs).toBeLessThan(2)
  })

  it('changes all of it if it does so while the change is written', async () => {
    const gate = createGate()
    const stored = createLocalStore({})
    const store: SessionStore = {
      ...stored,
      async commit(id, commit) {
        if (commit.change !== undefined) await gate.pass()
        return stored.commit(id, commit)
      },
    }
    const { a, session, state } = await createRounds(
      async (call) => {
        await call.update(addOne)
        return add(call)
      },
      { store },
    )
    const client = new AbortController()
    void a.fetch(askTool('run', { session }, { signal: client.signal }))
    await gate.reached
    client.abort()
    gate.open()
    await a.router.idle()
    expect(await state()).toEqual({ n: 2, version: 1 })
  })

  it('lets the next call in that waited for its update', async () => {
    const gate = createGate()
    const { a, session, state } = await createRounds(async (call) => {
      const added = await add(call)
      await gate.pass()
      await call.sleep(1e9)
      return added
    })
    const client = new AbortController()
    void a.fetch(askTool('run', { session }, { signal: client.signal }))
    await gate.reached
    const next = runTool(a.fetch, 'add', { session })
    gate.open()
    client.abort()
    expect(await next).toEqual({ n: 1 })
    expect(await state()).toEqual({ n: 1, version: 1 })
  })
})

describe('a round that another commit came before', () => {
  it('runs again on the state as it is then, and repeats no message and no step', async () => {
    const gate = createGate()
    const keys: string[] = []
    let runs = 0
    const { a, b, session, state } = await createRounds(async (call) => {
      runs++
      await call.log('info', 'first')
      const paid = await call.step('pay', async (key) => keys.push(key))
      const added = await add(call)
      await call.progress(1, 2, 'half')
      if (runs === 1) await gate.pass()
      await call.log('info', 'second')
      return { ...added, paid }
    })
    const more = { level: 'info', progressToken: 1 }
    const answer = a.fetch(askTool('run', { session }, more)).then(heard)
    await gate.reached
    await runTool(b.fetch, 'add', { session })
    gate.open()
    const { said, reply } = await answer
    expect(reply.result?.structuredContent).toEqual({ n: 2, paid: 1 })
    expect(said).toEqual(['first', 'half', 'second'])
    expect([runs, keys.length]).toEqual([2, 1])
    expect(await state()).toEqual({ n: 2, version: 2 })
  })

  it('says what it says otherwise the second time', async () => {
    const gate = createGate()
    let runs = 0
    const { a, b, session } = await createRounds(async (call) => {
      await call.log('info', `n is ${n.get(await call.read())}`)
      const added = await add(call)
      if (++runs === 1) await gate.pass()
      return added
    })
    const answer = a.fetch(askTool('run', { session }, { level: 'info' })).then(heard)
    await gate.reached
    await runTool(b.fetch, 'add', { session })
    gate.open()
    expect((await answer).said).toEqual(['n is 0', 'n is 1'])
  })

  it('counts each of many calls at once, on whatever instance', async () => {
    const { a, b, session, state } = await createRounds(add)
    const calls = Array.from({ length: 60 }, (_, at) => {
      return runTool((at % 2 === 0 ? a : b).fetch, 'run', { session })
    })
    const counts = (await Promise.all(calls)).map((result) => Number(result['n']))
    expect(counts.toSorted((x, y) => x - y)).toEqual(calls.map((_, at) => at + 1))
    expect(await state()).toEqual({ n: 60, version: 60 })
  })
})

describe('what a round says', () => {
  const LEVELS = ['debug', 'info', 'notice', 'warning', 'error', 'critical', 'alert', 'emergency']
  const speak = async (call: Call): Promise<JsonObject> => {
    for (const level of LEVELS) await call.log(level as 'debug', level)
    await call.progress(1, 1, 'done')
    return {}
  }
  const hear = async (more: Ask, tool = 'run') => {
    const { a, session } = await createRounds(speak)
    const response = await a.fetch(askTool(tool, tool === 'run' ? { session } : {}, more))
    if (isStream(response)) return (await heard(response)).said
    await response.text()
    return 'JSON'
  }

  it('is JSON to a client that wants to hear neither log nor progress', async () => {
    expect(await hear({})).toBe('JSON')
  })

  it.each(LEVELS.map((level, at) => [level, LEVELS.slice(at)] as const))(
    'is what is as grave as %s, and graver',
    async (level, said) => {
      expect(await hear({ level })).toEqual(said)
      expect(await hear({ level }, 'free')).toEqual(said)
    },
  )

  it.each([0, 1, 'x'])('is its progress under the token %o, and no log', async (progressToken) => {
    expect(await hear({ progressToken })).toEqual(['done'])
  })
})

const CAPPED = { env: { MAX_CALLS_PER_SESSION: '64' } }

describe('a call that cannot be taken', () => {
  it('is one too many: the 65th at once, which may come again', async () => {
    const gate = createGate()
    let running = 0
    const all = createGate()
    const { a, session, state } = await createRounds(async (call) => {
      if (++running === 64) void all.pass()
      await gate.pass()
      return add(call)
    }, CAPPED)
    const calls = Array.from({ length: 64 }, () => runTool(a.fetch, 'run', { session }))
    await all.reached
    const refused = await a.fetch(askTool('add', { session }))
    expect([refused.status, refused.headers.get('retry-after')]).toEqual([429, '1'])
    expect((await replyTo(refused)).error?.data?.type).toBe('too_many_calls')
    gate.open()
    await Promise.all(calls)
    expect(await runTool(a.fetch, 'add', { session })).toEqual({ n: 65 })
    expect(await state()).toEqual({ n: 65, version: 65 })
  })

  it('is one whose other 64 have hung up no longer', async () => {
    const all = createGate()
    let running = 0
    const { a, session } = await createRounds(async (call) => {
      if (++running === 64) void all.pass()
      await call.sleep(1e9)
      return {}
    }, CAPPED)
    const client = new AbortController()
    const more = { signal: client.signal }
    for (let at = 0; at < 64; at++) void a.fetch(askTool('run', { session }, more))
    await all.reached
    expect((await a.fetch(askTool('add', { session }))).status).toBe(429)
    client.abort()
    await a.router.idle()
    expect(await runTool(a.fetch, 'add', { session })).toEqual({ n: 1 })
  })

  it.each(['load', 'commit'] as const)('is one whose store is away: %s', async (method) => {
    const { store, failNext } = createFlaky(createLocalStore({}))
    const { a, session, state } = await createRounds(
      async (call) => {
        await call.read()
        return add(call)
      },
      { store },
    )
    failNext(method)
    const refused = await a.fetch(askTool('run', { session }))
    expect([refused.status, refused.headers.get('retry-after')]).toEqual([503, '1'])
    expect((await replyTo(refused)).error?.data?.type).toBe('store_unavailable')
    expect(await state()).toEqual({ n: 0, version: 0 })
    expect(await runTool(a.fetch, 'run', { session })).toEqual({ n: 1 })
  })

  it('is one for a session that cannot be opened while the store is away', async () => {
    const { store, failNext } = createFlaky(createLocalStore({}))
    const { a } = await createRounds(add, { store })
    failNext('commit')
    const refused = await a.fetch(askTool('open_session'))
    expect([refused.status, refused.headers.get('retry-after')]).toEqual([503, '1'])
    await openHandle(a.fetch)
  })
})
