import { afterEach, describe, expect, it, vi } from 'vitest'
import type { Fetch } from '../../support/mcp.ts'
import {
  accept,
  addMany,
  CAPABILITIES,
  createRounds,
  question,
  withAnswer,
  type Rounds,
} from '../../support/rounds.ts'
import { askTool, replyTo, runTool, type Ask } from '../../support/stateless.ts'

afterEach(() => void vi.useRealTimers())

describe('a requestState', () => {
  const BAD = { code: -32602, message: 'Invalid or expired requestState' }

  /** A round that is answered, and what comes of it if its state is another one. */
  async function answered(options: Parameters<typeof createRounds>[1] = {}) {
    const rounds = await createRounds(addMany, options)
    const asked = await question(rounds.a.fetch, rounds.session)
    const { requestState } = withAnswer(asked, accept(2)).params as { requestState: string }
    const answers = (withAnswer(asked, accept(2)).params as { inputResponses: object })
      .inputResponses
    const reply = (state: unknown, app = rounds.a) =>
      tryState(app.fetch, rounds.session, { requestState: state, inputResponses: answers })
    return { ...rounds, asked, requestState, answers, reply }
  }

  async function tryState(fetch: Fetch, session: string, params: object, more: Ask = {}) {
    const all = { params, capabilities: CAPABILITIES, ...more }
    return replyTo(await fetch(askTool('run', { session }, all)))
  }

  const unchanged = async ({ state }: Pick<Rounds, 'state'>): Promise<void> =>
    expect(await state()).toEqual({ n: 0, version: 0 })

  const long = { timeout: 60_000 }

  it('is taken as it is, and in no text that differs by one character', long, async () => {
    const { reply, requestState, ...rounds } = await answered()
    const taken: string[] = []
    for (let at = 0; at < requestState.length; at++) {
      for (const other of othersThan(requestState.charAt(at))) {
        const text = requestState.slice(0, at) + other + requestState.slice(at + 1)
        const { error } = await reply(text)
        if (error?.code !== -32602) taken.push(text)
      }
    }
    expect(taken).toEqual([])
    await unchanged(rounds)
    expect((await reply(requestState)).result?.structuredContent).toEqual({ n: 2 })
  })

  it('is not taken cut, longer, in parts, or as something else', async () => {
    const { reply, requestState, ...rounds } = await answered()
    const [version = '', body = '', mac = ''] = requestState.split('.')
    const cuts = Array.from(requestState, (_, at) => requestState.slice(0, at))
    const others = [
      ...cuts,
      requestState.slice(1),
      ` ${requestState}`,
      `${requestState} `,
      `${requestState}\n`,
      `${requestState}=`,
      `${requestState}A`,
      `${requestState}.`,
      requestState + requestState,
      `${version}.${body}.`,
      `${version}..${mac}`,
      `${version}.${mac}.${body}`,
      `${body}.${mac}`,
      null,
      1,
      true,
      {},
      [requestState],
      { requestState },
    ]
    for (const other of others) expect((await reply(other)).error).toMatchObject({ code: -32602 })
    await unchanged(rounds)
  })

  it('says no more of why it is refused than that it is', async () => {
    const { reply } = await answered()
    expect((await reply('v1.x.y')).error).toMatchObject(BAD)
  })

  it.each<[what: string, tool: string, args: object, headers: Record<string, string>]>([
    ['of another tool', 'other', {}, {}],
    ['of a tool that needs no session', 'free', { session: undefined }, {}],
    ['with other arguments', 'run', { by: 2 }, {}],
    ['with an argument more that is the default', 'run', { by: 1 }, {}],
    ['of another principal', 'run', {}, { 'x-principal': 'bob' }],
  ])('is not taken %s', async (_what, tool, args, headers) => {
    const { a, session, requestState, answers, ...rounds } = await answered()
    const more = { params: { requestState, inputResponses: answers }, headers }
    const request = askTool(tool, { session, ...args }, { capabilities: CAPABILITIES, ...more })
    expect((await replyTo(await a.fetch(request))).error).toMatchObject(BAD)
    await unchanged(rounds)
  })

  it('is not taken for another session', async () => {
    const { a, requestState, answers, ...rounds } = await answered()
    const other = String((await runTool(a.fetch, 'open_session'))['session'])
    const params = { requestState, inputResponses: answers }
    expect((await tryState(a.fetch, other, params)).error).toMatchObject(BAD)
    await unchanged(rounds)
  })

  it('is taken as long as a session lives that is not used, and no longer', async () => {
    vi.useFakeTimers({ toFake: ['Date'], now: 1_700_000_000_000 })
    const { a, session, requestState, reply, ...rounds } = await answered({
      env: { SESSION_TTL_SECONDS: '10' },
    })
    vi.setSystemTime(1_700_000_006_000)
    await unchanged(rounds)
    vi.setSystemTime(1_700_000_011_000)
    expect((await reply(requestState)).error).toMatchObject(BAD)
    await unchanged(rounds)
    expect(await runTool(a.fetch, 'add', { session })).toEqual({ n: 1 })
  })

  it('is taken on its last second', async () => {
    vi.useFakeTimers({ toFake: ['Date'], now: 1_700_000_000_000 })
    const { requestState, reply, ...rounds } = await answered({
      env: { SESSION_TTL_SECONDS: '10' },
    })
    vi.setSystemTime(1_700_000_006_000)
    await unchanged(rounds)
    vi.setSystemTime(1_700_000_010_000)
    expect((await reply(requestState)).result?.structuredContent).toEqual({ n: 2 })
  })

  it('is not taken if it was signed with another secret', async () => {
    const { start, requestState, reply, ...rounds } = await answered({ secrets: ['the one'] })
    const app = start('c', { secrets: ['another'] })
    expect((await reply(requestState, app)).error).toMatchObject(BAD)
    await unchanged(rounds)
  })

  it('is taken if it was signed with the second of two secrets', async () => {
    const { start, requestState, reply } = await answered({ secrets: ['the old one'] })
    const app = start('c', { secrets: ['the new one', 'the old one'] })
    expect((await reply(requestState, app)).result?.structuredContent).toEqual({ n: 2 })
  })

  it('is signed with the first of two secrets', async () => {
    const { start, requestState, reply } = await answered({ secrets: ['the new', 'the old'] })
    const left = start('c', { secrets: ['the old'] })
    expect((await reply(requestState, left)).error).toMatchObject(BAD)
    expect(
      (await reply(requestState, start('d', { secrets: ['the new'] }))).result?.structuredContent,
    ).toEqual({ n: 2 })
  })
})

const BASE64URL = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'

/** Characters in place of `char`: its neighbours in base64, which differ in the last bits, and others. */
function othersThan(char: string): string[] {
  const at = BASE64URL.indexOf(char)
  const near = at < 0 ? [] : [1, 2, 3, 32].map((bits) => BASE64URL.charAt(at ^ bits))
  const same = char === '-' ? ['+'] : char === '_' ? ['/'] : []
  return [...new Set([...near, ...same, 'A', '.', '='])].filter((other) => other !== char)
}
