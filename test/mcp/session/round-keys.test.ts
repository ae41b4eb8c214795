import { describe, expect, it } from 'vitest'
import { isStream, post, toolCall, type Fetch } from '../../support/mcp.ts'
import { add, addOne, createRounds } from '../../support/rounds.ts'
import { askTool, openHandle, replyTo, runTool } from '../../support/stateless.ts'

describe('an idempotency key', () => {
  const idempotencyKey = 'one'
  const CONFLICT = 'Cannot use idempotency key again: it was used for a call with other arguments'

  it('has one effect and one reply, on whatever instance it is used again', async () => {
    const { a, b, session, state } = await createRounds(add)
    const first = await (await a.fetch(askTool('run', { session }, { idempotencyKey }))).text()
    expect(await runTool(a.fetch, 'add', { session })).toEqual({ n: 2 })
    const again = await (await b.fetch(askTool('run', { session }, { idempotencyKey }))).text()
    expect(again).toBe(first)
    expect(await state()).toEqual({ n: 2, version: 2 })
  })

  it('has one effect when it is used twice at once', async () => {
    const { a, b, session, state } = await createRounds(add)
    const use = ({ fetch }: { fetch: Fetch }) =>
      runTool(fetch, 'run', { session }, { idempotencyKey })
    expect(await Promise.all([use(a), use(b), use(a)])).toEqual([{ n: 1 }, { n: 1 }, { n: 1 }])
    expect(await state()).toEqual({ n: 1, version: 1 })
  })

  it('runs no step for a call that was answered', async () => {
    let steps = 0
    const { a, session } = await createRounds(async (call) => {
      const step = await call.step('pay', async () => ++steps)
      return { ...(await add(call)), step }
    })
    const use = () => runTool(a.fetch, 'run', { session }, { idempotencyKey })
    expect(await use()).toEqual(await use())
    expect(steps).toBe(1)
  })

  it('has a step of its own in each session, for each caller and each tool', async () => {
    const keys: string[] = []
    const { a, session } = await createRounds(async (call) => {
      return { paid: await call.step('pay', async (key) => keys.push(key)) }
    })
    const bobs = (request: Request): Request => {
      request.headers.set('x-principal', 'bob')
      return request
    }
    const [another, bob] = await Promise.all([
      openHandle(a.fetch),
      openHandle((request) => a.fetch(bobs(request))),
    ])
    const use = (tool: string, its?: string) =>
      askTool(tool, { ...(its !== undefined && { session: its }) }, { idempotencyKey })
    for (const request of [
      use('run', session),
      use('run', another),
      use('other', session),
      use('free'),
      bobs(use('run', bob)),
      bobs(use('free')),
    ]) {
      expect((await replyTo(await a.fetch(request))).result?.isError).toBe(false)
    }
    expect(new Set(keys).size).toBe(6)
    await replyTo(await a.fetch(use('run', session)))
    expect(keys.at(-1)).toBe(keys[0])
  })

  it('is refused for other arguments and for another tool', async () => {
    const { a, session, state } = await createRounds(add)
    await runTool(a.fetch, 'run', { session }, { idempotencyKey })
    for (const request of [
      askTool('run', { session, by: 2 }, { idempotencyKey }),
      askTool('other', { session }, { idempotencyKey }),
    ]) {
      const { result } = await replyTo(await a.fetch(request))
      expect([result?.isError, result?.content?.[0]?.text]).toEqual([true, CONFLICT])
    }
    expect(await runTool(a.fetch, 'run', { session, by: 1 }, { idempotencyKey })).toEqual({ n: 1 })
    expect(await state()).toEqual({ n: 1, version: 1 })
  })

  it('is the same in all revisions, whichever uses it first', async () => {
    const { a, b, session, state } = await createRounds(add)
    const byHandle = () => runTool(b.fetch, 'run', { session }, { idempotencyKey })
    const message = JSON.stringify(toolCall('run'))
    const headers = { 'mcp-session-id': session, 'idempotency-key': idempotencyKey }
    const bySession = async () => (await replyTo(await a.fetch(post(message, headers)))).result
    expect((await bySession())?.structuredContent).toEqual({ n: 1 })
    expect(await byHandle()).toEqual({ n: 1 })
    const other = { ...headers, 'idempotency-key': 'two' }
    expect(await runTool(b.fetch, 'run', { session }, { idempotencyKey: 'two' })).toEqual({ n: 2 })
    const again = await replyTo(await a.fetch(post(message, other)))
    expect(again.result?.structuredContent).toEqual({ n: 2 })
    expect(await state()).toEqual({ n: 2, version: 2 })
  })

  it('has the reply of a call that was answered with a stream in its session', async () => {
    const { a, b, session, state } = await createRounds(async (call) => {
      await call.log('info', 'said')
      return add(call)
    })
    const headers = { 'mcp-session-id': session, 'idempotency-key': idempotencyKey }
    const told = await a.fetch(post(JSON.stringify(toolCall('run')), headers))
    expect(isStream(told)).toBe(true)
    expect((await replyTo(told)).result?.structuredContent).toEqual({ n: 1 })
    expect(await runTool(b.fetch, 'run', { session }, { idempotencyKey })).toEqual({ n: 1 })
    expect(await state()).toMatchObject({ n: 1 })
  })

  it('keeps the error of a tool that failed after its update, and the update', async () => {
    let runs = 0
    const { a, b, session, state } = await createRounds(async (call) => {
      await call.update(addOne)
      throw new Error(`No ${++runs}`)
    })
    const fail = async ({ fetch }: { fetch: Fetch }) =>
      (await replyTo(await fetch(askTool('run', { session }, { idempotencyKey })))).result
    const failed = { content: [{ type: 'text', text: 'No 1' }], isError: true }
    expect(await fail(a)).toMatchObject(failed)
    expect(await fail(b)).toMatchObject(failed)
    expect(await state()).toEqual({ n: 1, version: 1 })
  })

  it('is free again after a call whose update threw', async () => {
    let runs = 0
    const { a, session, state } = await createRounds(async (call) => {
      if (++runs > 1) return add(call)
      await call.update(() => {
        throw new Error('No')
      })
      return {}
    })
    const { result } = await replyTo(await a.fetch(askTool('run', { session }, { idempotencyKey })))
    expect(result).toMatchObject({ isError: true, content: [{ text: 'No' }] })
    expect(await state()).toEqual({ n: 0, version: 0 })
    expect(await runTool(a.fetch, 'run', { session }, { idempotencyKey })).toEqual({ n: 1 })
  })
})
