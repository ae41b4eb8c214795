/** Clients of 2026-07-28 on the edge, over real sockets: they hang up, and objects are reset. */
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { connectWithoutSession } from '../support/client.ts'
import { callTool, endSession, openSession } from '../support/mcp.ts'
import { askTool, openHandle, replyTo, runTool } from '../support/stateless.ts'
import { hangUpOnAll, hangUpOnAnalyses, KINDS } from './hang-ups.ts'
import { overSockets, type Send } from './sockets.ts'
import { listenTo, summaryOf, summaryUri, type Ear } from './summaries.ts'
import { bundleEdge, startWorkerd, type Workerd } from './workerd.ts'

let edge: Workerd
let off: Workerd
let send: Send

beforeAll(async () => {
  const bundle = await bundleEdge()
  ;[edge, off] = await Promise.all([
    startWorkerd(bundle),
    startWorkerd(bundle, { SESSIONS: 'off' }),
  ])
  send = overSockets(`${edge.url}/mcp`, 'resets')
})
afterAll(() => Promise.all([edge, off].map(({ stop }) => stop())))

/** All objects lose what they have in memory. */
async function reset({ url }: Workerd): Promise<void> {
  expect(Number(await (await fetch(`${url}/reset`)).text())).toBeGreaterThan(0)
}

describe('a client that hangs up on the Worker', () => {
  it('ends its call, at whatever stage, and nothing is half applied', async () => {
    const { tried, faults } = await hangUpOnAnalyses(send)
    console.log(`${tried} calls hung up on at the Worker, ${faults.length} of them took effect`)
    expect(faults).toEqual([])
  })

  it.each(KINDS)('leaves nothing behind that runs: %s', async (kind) => {
    const { ms } = await hangUpOnAll(send, kind)
    console.log(`64 calls answered as ${kind} ended ${ms} ms after the Worker's clients had gone`)
    expect(ms).toBeLessThan(5000)
  })
})

describe('who listens in the Worker', () => {
  it('is told of changes, also when the object is reset in between', async () => {
    const session = await openSession(send)
    const ear = await listening(session)
    await callTool(send, session, 'increment_counter')
    await hears(ear, session, 1)
    for (let counter = 2; counter <= 6; counter++) {
      await reset(edge)
      await runTool(send, 'increment_counter', { session })
      await hears(ear, session, counter)
    }
  })

  it('goes on when another one that listens to the same has gone', async () => {
    const session = await openHandle(send)
    const [first, second] = [await listening(session), await listening(session)]
    await runTool(send, 'increment_counter', { session })
    await Promise.all([first, second].map((ear) => hears(ear, session, 1)))
    await first.hangUp()
    for (let counter = 2; counter <= 6; counter++) {
      await runTool(send, 'increment_counter', { session })
      await hears(second, session, counter)
      if (counter > 3) await reset(edge)
    }
  })

  it('is let go when the session has ended', async () => {
    const session = await openSession(send)
    const ear = await listening(session)
    await endSession(send, session)
    await expect(ear.next()).rejects.toThrow('the stream has ended')
  })

  it('gets none acknowledged but what is there', async () => {
    const own = summaryUri(await openHandle(send))
    const uris = [own, ...['0'.repeat(64), 'x', ''].map(summaryUri), 'file:///etc/passwd']
    const ear = await listenTo(send, uris)
    expect(ear.acknowledged).toEqual([own])
    await ear.hangUp()
  })

  async function listening(session: string): Promise<Ear> {
    const ear = await listenTo(send, [summaryUri(session)])
    onTestFinished(() => ear.hangUp())
    expect(ear.acknowledged).toEqual([summaryUri(session)])
    return ear
  }

  async function hears(ear: Ear, session: string, counter: number): Promise<void> {
    do expect(await ear.next()).toBe(summaryUri(session))
    while ((await summaryOf(send, session))['counter'] !== counter)
  }
})

describe('a handle on the edge', () => {
  it('that the header says and the body does not is refused, and changes nothing', async () => {
    const [mine = '', other = ''] = await Promise.all([0, 1].map(() => openHandle(send)))
    for (const [session, lie] of [
      [mine, other],
      [other, mine],
      [mine, 'no handle'],
      [mine, '0'.repeat(64)],
    ] as const) {
      const headers = { 'mcp-param-session': lie }
      const response = await send(askTool('increment_counter', { session }, { headers }))
      expect(response.status).toBe(400)
      expect((await replyTo(response)).error?.code).toBe(-32_020)
    }
    for (const session of [mine, other]) {
      expect(await summaryOf(send, session)).toMatchObject({ counter: 0 })
    }
  })

  it('is asked for in rounds, with its object reset between question and answer', async () => {
    const session = await openHandle(send)
    for (const note of ['first', 'second']) await runTool(send, 'add_note', { session, note })
    const capabilities = { elicitation: {} }
    const clear = async (params = {}) =>
      (await replyTo(await send(askTool('clear_notes', { session }, { capabilities, params }))))
        .result
    const question = await clear()
    expect(question).toMatchObject({ resultType: 'input_required' })
    await reset(edge)
    const [name = ''] = Object.keys(question?.['inputRequests'] ?? {})
    const answer = { action: 'accept', content: { confirm: true } }
    const params = { requestState: question?.['requestState'], inputResponses: { [name]: answer } }
    const cleared = await clear(params)
    expect(cleared?.structuredContent).toMatchObject({ confirmed: true, notes_deleted: 2 })
    await runTool(send, 'add_note', { session, note: 'later' })
    await reset(edge)
    expect(await clear(params)).toEqual(cleared)
    expect(await summaryOf(send, session)).toMatchObject({ notes: ['later'] })
  })

  it('is what a client of 2025-11-25 gets where SESSIONS=off', async () => {
    const call = await connectWithoutSession(`${off.url}/mcp`)
    const { session } = (await call('open_session')) ?? {}
    const instances = new Set<unknown>()
    for (let counter = 1; counter <= 3; counter++) {
      const result = await call('increment_counter', { session })
      expect(result?.['counter']).toBe(counter)
      instances.add(result?.['instance'])
      await reset(off)
    }
    expect(instances.size).toBe(3)
  })
})
