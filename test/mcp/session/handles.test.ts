import { describe, expect, it } from 'vitest'
import * as z from 'zod'
import type { Call } from '../../../mcp/session/call.ts'
import { systemClock } from '../../../mcp/session/clock.ts'
import { defineTool } from '../../../mcp/session/tool.ts'
import { createLocalApp } from '../../support/local-app.ts'
import { BASE, callTool, isStream, rpc, send, toolCall, type Fetch } from '../../support/mcp.ts'
import { add, createRounds } from '../../support/rounds.ts'
import { askTool, openHandle, replyTo, runTool } from '../../support/stateless.ts'

describe('a session that was opened by its handle', () => {
  it('is one for clients that know sessions, too', async () => {
    const { fetch } = createLocalApp()
    const session = await openHandle(fetch)
    await runTool(fetch, 'increment_counter', { session })
    expect(await callTool(fetch, session, 'increment_counter')).toMatchObject({ counter: 2 })
    const response = await send(fetch, session, toolCall('get_counter'))
    expect(isStream(response)).toBe(false)
    expect(response.headers.get('mcp-session-id')).toBe(session)
    await response.text()
    expect(await ended(fetch, session)).toBe(200)
    const { result } = await replyTo(await fetch(askTool('increment_counter', { session })))
    expect(result).toMatchObject({ isError: true })
  })

  async function ended(its: Fetch, session: string): Promise<number> {
    const headers = { host: 'localhost', 'mcp-session-id': session }
    return (await its(new Request(`${BASE}/mcp`, { method: 'DELETE', headers }))).status
  }
})

describe('a pack that can not be served', () => {
  const tool = (name: string, shape = {}) => {
    const run = async () => ({})
    return defineTool({ name, description: 'Does nothing', input: z.object(shape), run })
  }

  it.each([
    ['two tools of one name', [tool('one'), tool('two'), tool('one')], 'tool "one": there are two'],
    ['a tool called open_session', [tool('open_session')], 'tool "open_session": there are two'],
    ['a session of a tool’s own', [tool('one', { session: z.string() })], 'may have no "session"'],
  ])('is refused before it is: %s', (_what, tools, why) => {
    expect(() => createLocalApp({ pack: { tools } })).toThrow(why)
  })
})

describe('a session that is not there', () => {
  const bytes = async (response: Response): Promise<unknown> => [
    response.status,
    [...response.headers],
    await response.text(),
  ]

  it.each(['run', 'add', 'idle'])(
    'is so in the same bytes, whatever the reason: %s',
    async (by) => {
      const [tool, input] = by === 'idle' ? ['run', { by: 0 }] : [by, {}]
      let now = 0
      const clock = { ...systemClock, now: () => now }
      const env = { SESSION_TTL_SECONDS: '10' }
      const run = async (call: Call, { by: times }: { by: number }) =>
        times === 0 ? {} : add(call)
      const { a, b, session, state } = await createRounds(run, { clock, env })
      const own = (id: string, headers = {}) =>
        askTool(tool, { session: id, ...input }, { headers })
      const unknown = await bytes(await a.fetch(own('unknown')))
      expect(unknown).toEqual([
        200,
        [
          ['cache-control', 'no-store'],
          ['content-type', 'application/json'],
          ['x-content-type-options', 'nosniff'],
        ],
        expect.stringMatching(/Call open_session for a new one.*"isError":true/),
      ])
      const foreign = own(session, { 'x-principal': 'bob' })
      expect(await bytes(await a.fetch(foreign))).toEqual(unknown)
      expect(await state()).toEqual({ n: 0, version: 0 })

      const deleted = await openHandle(a.fetch)
      await runTool(b.fetch, 'add', { session: deleted })
      const headers = { host: 'localhost', 'mcp-session-id': deleted }
      const del = new Request(`${BASE}/mcp`, { method: 'DELETE', headers })
      expect((await a.fetch(del)).status).toBe(200)
      for (const { fetch } of [a, b])
        expect(await bytes(await fetch(own(deleted)))).toEqual(unknown)

      expect(await runTool(a.fetch, 'add', { session })).toEqual({ n: 1 })
      now = 10_000
      for (const { fetch } of [a, b])
        expect(await bytes(await fetch(own(session)))).toEqual(unknown)
    },
  )

  it('lives as long as any client uses it, whatever its revision', async () => {
    let now = 0
    const clock = { ...systemClock, now: () => now }
    const { a, b, session } = await createRounds(add, { clock, env: { SESSION_TTL_SECONDS: '10' } })
    for (let turn = 1; turn < 4; turn++) {
      now += 9000
      const count = 2 * turn - 1
      expect(await runTool(a.fetch, 'add', { session })).toEqual({ n: count })
      now += 9000
      expect(await callTool(b.fetch, session, 'add')).toEqual({ n: count + 1 })
    }
    expect((await rpc(b.fetch, session, toolCall('add'))).result?.isError).toBe(false)
  })
})
