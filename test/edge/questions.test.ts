import { describe, expect, it, vi } from 'vitest'
import * as z from 'zod'
import { slot } from '../../mcp/session/state.ts'
import { defineTool } from '../../mcp/session/tool.ts'
import {
  callTool,
  collect,
  openSession,
  readEvents,
  send,
  toolCall,
  type RpcReply,
  type SseEvent,
} from '../support/mcp.ts'
import { offer, planCrashes, SIDES } from './crashing.ts'
import { edgeFetch as fetch, evict, evictClosing, reset, streamsOf } from './support.ts'

vi.setConfig({ testTimeout: 60_000 })

const YES = { action: 'accept', content: { confirm: true } }
const NO = { action: 'decline' }

const times = slot('times', z.int().default(0))
offer(
  defineTool({
    name: 'ask_and_work',
    description: 'Counts the answers that were yes, with time for more of them',
    input: z.strictObject({}),
    async run(call) {
      const requestedSchema = {
        type: 'object' as const,
        properties: { confirm: { type: 'boolean' as const } },
      }
      const { action } = await call.elicit({ message: 'Sure?', requestedSchema })
      await call.sleep(300)
      if (action !== 'accept') return { times: 0 }
      const state = await call.update((before) => times.set(before, times.get(before) + 1))
      return { times: times.get(state) }
    },
  }),
)

describe('a question on the edge', () => {
  it('stays open while its object is reset, and its answer has one effect', async () => {
    const { session, stream, question } = await askToClear(['a', 'b'])
    await reset(session)
    await callTool(fetch, session, 'add_note', { note: 'c' })
    await reset(session)
    await answer(session, question, YES)
    await reset(session)
    await expectCleared(stream, 2)
    expect(await callTool(fetch, session, 'list_notes')).toMatchObject({ notes: ['c'] })
  })

  it.each([
    ['evicted', evict],
    ['evicted with its sockets closed', evictClosing],
  ])('keeps its object from being %s until it is answered', async (_what, kill) => {
    const { session, stream, question } = await askToClear(['a', 'b'])
    const evicted = kill(session)
    const { instance } = await callTool(fetch, session, 'add_note', { note: 'c' })
    await answer(session, question, YES)
    expect(await expectCleared(stream, 2)).toBe(instance)
    await evicted
    const list = await callTool(fetch, session, 'list_notes')
    expect(list).toMatchObject({ notes: ['c'] })
    expect(list['instance']).not.toBe(instance)
  })

  it('stays open however often its object is reset', async () => {
    const { session, stream, question } = await askToClear(['a'])
    for (let resets = 0; resets < 15; resets++) {
      await reset(session)
      await callTool(fetch, session, 'list_notes')
    }
    await answer(session, question, YES)
    await expectCleared(stream, 1)
  })

  it('takes the first of many answers, and none that comes late', async () => {
    const { session, stream, question } = await askToClear(['a', 'b'])
    const answers = [YES, NO, YES, NO].map((result) => answer(session, question, result))
    await Promise.all([...answers, reset(session)])
    const [reply] = await collect(stream)
    const { result } = JSON.parse(reply?.data ?? '') as RpcReply
    const confirmed = result?.structuredContent?.['confirmed'] === true
    const left = confirmed ? [] : ['a', 'b']
    expect(await callTool(fetch, session, 'list_notes')).toMatchObject({ notes: left })
    await callTool(fetch, session, 'add_note', { note: 'later' })
    const before = await streamsOf(session)
    for (const late of [YES, NO, YES]) {
      await answer(session, question, late)
      await reset(session)
    }
    expect(await streamsOf(session)).toEqual(before)
    expect(
      Object.values(before)
        .flat()
        .filter(({ kind }) => kind === 'answer'),
    ).toHaveLength(1)
    const notes = [...left, 'later']
    expect(await callTool(fetch, session, 'list_notes')).toMatchObject({ notes })
  })

  it('keeps the first answer while the call goes on, also over a reset', async () => {
    const session = await openSession(fetch)
    const { stream, question } = await askBy('ask_and_work', session)
    await answer(session, question, YES)
    await answer(session, question, NO)
    await reset(session)
    await answer(session, question, NO)
    const said = (await collect(stream)).map(({ data }) => JSON.parse(data) as RpcReply)
    expect(said).toMatchObject([{ id: 'mine', result: { structuredContent: { times: 1 } } }])
    const entries = Object.values(await streamsOf(session)).flat()
    expect(entries.filter(({ kind }) => kind === 'answer')).toHaveLength(1)
    expect(entries.at(-1)?.kind).toBe('end')
  })

  it.each(SIDES)(
    'has one effect if its object is reset between answer and effect: %s',
    async (side) => {
      let after = 1
      for (; ; after++) {
        const { session, stream, question } = await askToClear(['a'])
        const { left } = planCrashes(session, [{ after, side }])
        await answer(session, question, YES)
        const events = await collect(stream)
        const isOver = left.length > 0
        planCrashes(session, [])
        expect(events.map(({ data }) => JSON.parse(data) as RpcReply)).toMatchObject([
          { id: 'mine', result: { structuredContent: { confirmed: true, notes_deleted: 1 } } },
        ])
        expect(await callTool(fetch, session, 'list_notes')).toMatchObject({ notes: [] })
        if (isOver) break
      }
      console.log(`${after - 1} crash points behind an answer, ${side} each`)
      expect(after).toBeGreaterThan(5)
    },
  )
})

interface Asked {
  readonly session: string
  readonly stream: AsyncGenerator<SseEvent>
  readonly question: unknown
}

/** A session with `notes`, whose user is asked whether to clear them. */
async function askToClear(notes: readonly string[]): Promise<Asked> {
  const session = await openSession(fetch)
  for (const note of notes) await callTool(fetch, session, 'add_note', { note })
  return askBy('clear_notes', session)
}

async function askBy(tool: string, session: string): Promise<Asked> {
  const stream = readEvents(await send(fetch, session, toolCall(tool, {}, 'mine')))
  await stream.next()
  const { data } = (await stream.next()).value as SseEvent
  const { id, method } = JSON.parse(data) as RpcReply & { method: string }
  expect(method).toBe('elicitation/create')
  return { session, stream, question: id }
}

async function answer(session: string, id: unknown, result: object): Promise<void> {
  const response = await send(fetch, session, { jsonrpc: '2.0', id, result })
  expect(response.status).toBe(202)
}

/** Reads a call's stream to its end; answers who ended it. */
async function expectCleared(stream: Asked['stream'], count: number): Promise<unknown> {
  const said = (await collect(stream)).map(({ data }) => JSON.parse(data) as RpcReply)
  expect(said).toMatchObject([
    { id: 'mine', result: { structuredContent: { confirmed: true, notes_deleted: count } } },
  ])
  return said[0]?.result?.structuredContent?.['instance']
}
