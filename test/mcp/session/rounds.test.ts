import { afterEach, describe, expect, it, vi } from 'vitest'
import type { SessionStore } from '../../../mcp/session/store.ts'
import { createLocalStore } from '../../support/local-app.ts'
import type { Fetch } from '../../support/mcp.ts'
import {
  accept,
  addMany,
  addOne,
  answering,
  CAPABILITIES,
  createRounds,
  form,
  howMany,
  n,
  question,
  withAnswer,
  type Asked,
} from '../../support/rounds.ts'
import { askTool, replyTo, runTool, type Ask } from '../../support/stateless.ts'

afterEach(() => void vi.useRealTimers())

const messages = ({ questions }: Asked) =>
  Object.values(questions).map(({ params }) => params.message)

describe('a tool that asks its client', () => {
  it('goes on with the answer on an instance that has never seen the call', async () => {
    const { a, session, start, state } = await createRounds(addMany)
    const asked = await question(a.fetch, session)
    expect(Object.values(asked.questions)).toEqual([
      { method: 'elicitation/create', params: { mode: 'form', ...form('How many?') } },
    ])
    expect(await state()).toEqual({ n: 0, version: 0 })
    const { fetch } = start('c')
    expect(await runTool(fetch, 'run', { session }, withAnswer(asked, accept(2)))).toEqual({ n: 2 })
    expect(await state()).toEqual({ n: 2, version: 1 })
  })

  it('asks together what it asks at once', async () => {
    const { a, b, session } = await createRounds(async (call) => {
      const [first, second] = await Promise.all([
        howMany(call, 'First?'),
        call.sample({
          messages: [{ role: 'user', content: { type: 'text', text: 'Second?' } }],
          maxTokens: 9,
        }),
      ])
      return { first, second: second.model }
    })
    const { questions, requestState } = await question(a.fetch, session)
    const keys = Object.keys(questions)
    expect(keys.map((key) => questions[key]?.method)).toEqual([
      'elicitation/create',
      'sampling/createMessage',
    ])
    const sampled = { role: 'assistant', model: 'm', content: { type: 'text', text: 'Two' } }
    const answers = { [String(keys[0])]: accept(1), [String(keys[1])]: sampled }
    expect(await runTool(b.fetch, 'run', { session }, answering(requestState, answers))).toEqual({
      first: { action: 'accept', count: 1 },
      second: 'm',
    })
  })

  it('asks together what it asks as soon as it can', async () => {
    const { a, session } = await createRounds(async (call) => {
      const later = async () => {
        for (let count = 0; count < 9; count++) await call.read()
        return howMany(call, 'Second?')
      }
      return { both: await Promise.all([howMany(call, 'First?'), later()]) }
    })
    const asked = await question(a.fetch, session)
    expect(messages(asked)).toEqual(['First?', 'Second?'])
    const { both } = await runTool(a.fetch, 'run', { session }, withAnswer(asked, accept(1)))
    expect(both).toMatchObject([{ count: 1 }, { count: 1 }])
  })

  it('asks again for the answer that did not come', async () => {
    const { a, session } = await createRounds(async (call) => {
      const both = await Promise.all([howMany(call, 'First?'), howMany(call, 'Second?')])
      return { both }
    })
    const asked = await question(a.fetch, session)
    const [first, second] = Object.keys(asked.questions)
    const half = answering(asked.requestState, { [String(first)]: accept(1) })
    const again = await question(a.fetch, session, half)
    expect(Object.keys(again.questions)).toEqual([second])
    const whole = withAnswer(again, accept(2))
    const { both } = await runTool(a.fetch, 'run', { session }, whole)
    expect(both).toMatchObject([{ count: 1 }, { count: 2 }])
  })

  it('asks in two rounds what it asks one after the other', async () => {
    const { a, b, session } = await createRounds(async (call) => {
      const { count: first } = await howMany(call, 'First?')
      const { count: second } = await howMany(call, `After ${first}?`)
      return { first, second }
    })
    const one = await question(a.fetch, session)
    const two = await question(b.fetch, session, withAnswer(one, accept(1)))
    expect([messages(one), messages(two)]).toEqual([['First?'], ['After 1?']])
    const end = withAnswer(two, accept(2))
    expect(await runTool(a.fetch, 'run', { session }, end)).toEqual({ first: 1, second: 2 })
  })

  it.each(['decline', 'cancel'])('is told that its user said %s', async (action) => {
    const { a, session } = await createRounds((call) => howMany(call))
    const more = withAnswer(await question(a.fetch, session), { action })
    expect(await runTool(a.fetch, 'run', { session }, more)).toEqual({ action, count: 0 })
  })

  it.each([
    ['a text for a number', accept('2')],
    ['no content', { action: 'accept' }],
    ['another field', { action: 'accept', content: { other: 1 } }],
    ['a half', accept(1.5)],
    ['a model', { role: 'assistant', model: 'm', content: { type: 'text', text: 'x' } }],
    ['nothing known', {}],
  ])('fails, and changes nothing, for an answer that does not fit: %s', async (_what, answer) => {
    const { a, session, state } = await createRounds(addMany)
    const more = withAnswer(await question(a.fetch, session), answer)
    const { result } = await replyTo(await a.fetch(askTool('run', { session }, more)))
    expect(result).toMatchObject({
      isError: true,
      content: [{ text: expect.stringMatching(/^Cannot use the client's answer: it is not /) }],
    })
    expect(await state()).toEqual({ n: 0, version: 0 })
  })

  it('is asked anew if it asks something else on the way back', async () => {
    const { a, b, session, state } = await createRounds(async (call) => {
      const before = n.get(await call.read())
      const { count } = await howMany(call, `More than ${before}?`)
      await call.update(addOne)
      return { count }
    })
    const asked = await question(a.fetch, session)
    await runTool(b.fetch, 'add', { session })
    const again = await question(a.fetch, session, withAnswer(asked, accept(1)))
    expect(messages(again)).toEqual(['More than 1?'])
    expect(await state()).toEqual({ n: 1, version: 1 })
    const more = withAnswer(again, accept(2))
    expect(await runTool(a.fetch, 'run', { session }, more)).toEqual({ count: 2 })
    expect(await state()).toEqual({ n: 2, version: 2 })
  })

  it('takes no answer to what was not asked', async () => {
    const { a, session } = await createRounds(addMany)
    const early = { params: { inputResponses: { 1: accept(1) } } }
    expect(messages(await question(a.fetch, session, early))).toEqual(['How many?'])
  })

  it('is refused if its client cannot be asked', async () => {
    const { a, session, state } = await createRounds(addMany)
    const more = { id: 'mine', capabilities: {} }
    const response = await a.fetch(askTool('run', { session }, more))
    expect(response.status).toBe(400)
    expect(await replyTo(response)).toMatchObject({ id: 'mine', error: { code: -32021 } })
    expect(await state()).toEqual({ n: 0, version: 0 })
  })

  it('fails with a reason if it has come to more than a client can bring back', async () => {
    const { a, session, state } = await createRounds(async (call) => {
      await call.update(addOne)
      await call.step('read', async () => 'x'.repeat(64 * 1024))
      return howMany(call)
    })
    const more = { capabilities: CAPABILITIES }
    const { result } = await replyTo(await a.fetch(askTool('run', { session }, more)))
    expect(result).toMatchObject({
      isError: true,
      content: [{ text: 'Cannot ask: the call has recorded over 65536 characters' }],
    })
    expect(await state()).toEqual({ n: 0, version: 0 })
  })

  it('need have no session', async () => {
    const { a, b } = await createRounds((call) => howMany(call))
    const free = async ({ fetch }: { fetch: Fetch }, more: Ask) =>
      (await replyTo(await fetch(askTool('free', {}, { capabilities: CAPABILITIES, ...more }))))
        .result
    const { inputRequests, requestState } = (await free(a, {})) as unknown as Record<string, never>
    const asked = { questions: inputRequests, requestState } as unknown as Asked
    const result = await free(b, withAnswer(asked, accept(3)))
    expect(result?.structuredContent).toEqual({ action: 'accept', count: 3 })
  })
})

describe('what a call did before it asked', () => {
  it('is done once, however often its rounds are sent again', async () => {
    const keys: string[] = []
    const { a, b, session, state } = await createRounds(async (call) => {
      await call.log('info', 'said')
      const key = await call.step('pay', async (given) => {
        keys.push(given)
        return given
      })
      await call.update(addOne)
      const { count } = await howMany(call)
      await call.update(addOne)
      return { key, count }
    })
    const asked = await question(a.fetch, session)
    expect(await state()).toEqual({ n: 1, version: 1 })
    const more = withAnswer(asked, accept(5))
    for (const { fetch } of [b, a, b]) {
      expect(await runTool(fetch, 'run', { session }, more)).toEqual({ key: keys[0], count: 5 })
    }
    expect(keys).toHaveLength(1)
    expect(await state()).toEqual({ n: 2, version: 2 })
  })

  it('is counted the same whether its client hears of progress or not', async () => {
    const { a, session } = await createRounds(async (call) => {
      await call.progress(1, 2, 'half')
      return howMany(call)
    })
    for (const [before, after] of [
      [{ progressToken: 'p' }, {}],
      [{}, { progressToken: 'p' }],
    ]) {
      const more = withAnswer(await question(a.fetch, session, before), accept(2))
      const { result } = await replyTo(
        await a.fetch(askTool('run', { session }, { ...more, ...after })),
      )
      expect(result?.structuredContent).toEqual({ action: 'accept', count: 2 })
    }
  })

  it('is told as it was: what time it was, and that a step had failed', async () => {
    let runs = 0
    const { a, b, session } = await createRounds(async (call) => {
      const at = await call.now()
      const failed = await call
        .step('pay', () => Promise.reject(new Error(`No ${++runs}`)))
        .catch(String)
      return { at, failed, ...(await howMany(call)) }
    })
    vi.useFakeTimers({ toFake: ['Date'], now: 1_700_000_000_000 })
    const asked = await question(a.fetch, session)
    vi.setSystemTime(1_700_000_060_000)
    expect(await runTool(b.fetch, 'run', { session }, withAnswer(asked, accept(1)))).toEqual({
      at: 1_700_000_000_000,
      failed: 'Error: No 1',
      action: 'accept',
      count: 1,
    })
  })

  it('is told as it was, whatever the tool has made of it since', async () => {
    const { a, b, session } = await createRounds(async (call) => {
      const own = [1]
      const told = await call.step('list', async () => own)
      own.push(2)
      told.push(3)
      const { content = {} } = await call.elicit(form('How many?'))
      const counts = { ...content }
      content['count'] = 9
      await call.elicit(form('Sure?'))
      return { told, counts }
    })
    const first = await question(a.fetch, session)
    const second = await question(b.fetch, session, withAnswer(first, accept(4)))
    const request = askTool('run', { session }, withAnswer(second, accept(5)))
    const { result } = await replyTo(await a.fetch(request))
    expect(result?.structuredContent).toEqual({ told: [1, 3], counts: { count: 4 } })
  })

  it('is not said again', async () => {
    const { a, session } = await createRounds(async (call) => {
      await call.log('info', 'before')
      return howMany(call)
    })
    const more = { ...withAnswer(await question(a.fetch, session), accept(1)), level: 'debug' }
    const response = await a.fetch(askTool('run', { session }, more))
    expect(response.headers.get('content-type')).toBe('application/json')
    await response.text()
  })

  it('is done once under one idempotency key, which has the same question', async () => {
    const { a, b, session, state } = await createRounds(async (call) => {
      await call.update(addOne)
      return addMany(call)
    })
    const idempotencyKey = 'one'
    const asked = await question(a.fetch, session, { idempotencyKey })
    expect(await question(b.fetch, session, { idempotencyKey })).toEqual(asked)
    const more = { ...withAnswer(asked, accept(5)), idempotencyKey }
    expect(await runTool(b.fetch, 'run', { session }, more)).toEqual({ n: 6 })
    expect(await state()).toEqual({ n: 6, version: 2 })
  })

  it('is not given up for another commit that comes while it goes on', async () => {
    const { a, b, session, state } = await createRounds(addMany)
    const asked = await question(a.fetch, session)
    const more = withAnswer(asked, accept(5))
    const [result] = await Promise.all([
      runTool(a.fetch, 'run', { session }, more),
      runTool(b.fetch, 'add', { session }),
      runTool(b.fetch, 'add', { session }),
    ])
    expect(Number(result['n'])).toBeGreaterThanOrEqual(5)
    expect(await state()).toEqual({ n: 7, version: 3 })
  })
})

describe('an answered round', () => {
  it('has one effect and one reply when it is answered twice the same', async () => {
    const { a, b, session, state } = await createRounds(addMany)
    const more = withAnswer(await question(a.fetch, session), accept(2))
    const both = [a, b].map(({ fetch }) => fetch(askTool('run', { session }, more)))
    const [first, second] = await Promise.all(both.map(async (one) => (await one).text()))
    expect(second).toBe(first)
    await runTool(a.fetch, 'add', { session })
    expect(await runTool(a.fetch, 'run', { session }, more)).toEqual({ n: 2 })
    expect(await state()).toEqual({ n: 3, version: 2 })
  })

  it('leaves no more on record than others, however long its answer', async () => {
    const store = createLocalStore({})
    const lengths: number[] = []
    const commit: SessionStore['commit'] = (id, one) => {
      if (one.reply !== undefined) lengths.push(JSON.stringify(one.reply).length)
      return store.commit(id, one)
    }
    const { a, session } = await createRounds(addMany, { store: { ...store, commit } })
    const { content } = accept(2)
    const answer = { action: 'accept', content: { ...content, more: 'x'.repeat(100_000) } }
    const more = withAnswer(await question(a.fetch, session), answer)
    const { result } = await replyTo(await a.fetch(askTool('run', { session }, more)))
    expect(result?.structuredContent).toEqual({ n: 2 })
    expect(lengths).toHaveLength(1)
    expect(lengths[0]).toBeLessThan(1000)
  })

  it('is not answered otherwise later', async () => {
    const { a, b, session, state } = await createRounds(addMany)
    const asked = await question(a.fetch, session)
    await runTool(a.fetch, 'run', { session }, withAnswer(asked, accept(2)))
    const more = withAnswer(asked, accept(3))
    const { result } = await replyTo(await b.fetch(askTool('run', { session }, more)))
    expect(result).toMatchObject({
      isError: true,
      content: [{ text: expect.stringContaining('Cannot use idempotency key again') }],
    })
    expect(await state()).toEqual({ n: 2, version: 1 })
  })
})
