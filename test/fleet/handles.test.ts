/** Sessions by handle, in 2026-07-28, through HAProxy. */
import {
  Client as ClientV2,
  StreamableHTTPClientTransport as TransportV2,
} from '@modelcontextprotocol/client'
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from 'vitest'
import { summaryOf } from '../failover/summaries.ts'
import { connectWithoutSession } from '../support/client.ts'
import { startFleet, type Fleet } from '../support/fleet.ts'
import { openSession, post, rpc, toolCall, type RpcReply } from '../support/mcp.ts'
import { askTool, openHandle, replyTo, runTool } from '../support/stateless.ts'

const NOTES = ['first', 'second']
const YES = { action: 'accept' as const, content: { confirm: true } }
const CAN_ASK = { capabilities: { elicitation: {} } }

describe('a handle', () => {
  let fleet: Fleet

  beforeAll(async () => {
    fleet = await startFleet()
  })
  beforeEach(async () => {
    await fleet.allAre('UP')
  })
  afterAll(() => fleet.stop())

  it('leads to its holder, in calls and in names of resources', async () => {
    const handles = await Promise.all(Array.from({ length: 50 }, () => openHandle(fleet.fetch)))
    const where = await Promise.all(handles.map(instanceOf))
    const hits: boolean[] = []
    await Promise.all(
      handles.map(async (session, index) => {
        for (let n = 2; n <= 6; n++) {
          const { counter, instance } = await runTool(fleet.fetch, 'increment_counter', { session })
          expect(counter).toBe(n)
          hits.push(instance === where[index])
        }
        const { instance } = await summaryOf(fleet.fetch, session)
        hits.push(instance === where[index])
      }),
    )
    const share = hits.filter(Boolean).length / hits.length
    const instances = new Set(where).size
    console.log(
      `${hits.length} requests, ${share * 100} % of them to holders on ${instances} instances`,
    )
    expect(share).toBeGreaterThanOrEqual(0.95)
    expect(instances).toBeGreaterThan(1)
  })

  it('in a header of an earlier revision leads nowhere', async () => {
    const session = await openSession(fleet.fetch)
    const other = await handleElsewhere(await holderOf(session))
    const found = await holderOf(session)
    for (let n = 0; n < 10; n++) {
      expect(await holderOf(session, { 'mcp-param-session': other })).toBe(found)
    }
    expect(await instanceOf(other)).not.toBe(found)
    expect(await summaryOf(fleet.fetch, other)).toMatchObject({ counter: 2 })
  })

  it('that the header says and the body does not is refused, and changes nothing', async () => {
    const [mine = '', other = ''] = await Promise.all([0, 1].map(() => openHandle(fleet.fetch)))
    for (const [session, lie] of [
      [mine, other],
      [other, mine],
      [mine, 'no handle'],
    ] as const) {
      const headers = { 'mcp-param-session': lie }
      const response = await fleet.fetch(askTool('increment_counter', { session }, { headers }))
      expect(response.status).toBe(400)
      expect((await replyTo(response)).error?.code).toBe(-32_020)
    }
    for (const session of [mine, other]) {
      expect(await summaryOf(fleet.fetch, session)).toMatchObject({ counter: 0 })
    }
  })

  it('is asked for by raw rounds, the first at an instance that is killed', async () => {
    const session = await openHandle(fleet.fetch)
    for (const note of NOTES) await runTool(fleet.fetch, 'add_note', { session, note })
    const holder = (await runTool(fleet.fetch, 'get_counter', { session }))['instance']
    const question = await clear(session)
    expect(question.result).toMatchObject({ resultType: 'input_required' })
    fleet.signal(String(holder), 'SIGKILL')
    const { inputRequests, requestState } = question.result ?? {}
    const [name = ''] = Object.keys(inputRequests ?? {})
    const params = { requestState, inputResponses: { [name]: YES } }
    const cleared = await clear(session, params)
    expect(cleared.result?.structuredContent).toMatchObject({ confirmed: true, notes_deleted: 2 })
    expect(cleared.result?.structuredContent?.['instance']).not.toBe(holder)
    // Said again, it has its reply and no other effect.
    await runTool(fleet.fetch, 'add_note', { session, note: 'later' })
    expect((await clear(session, params)).result).toEqual(cleared.result)
    expect(await summaryOf(fleet.fetch, session)).toMatchObject({ notes: ['later'] })
  })

  it('is asked for by the official client, whose instance is killed meanwhile', async () => {
    const versionNegotiation = { mode: { pin: '2026-07-28' } } as const
    const client = new ClientV2({ name: 'test', version: '0' }, { ...CAN_ASK, versionNegotiation })
    await client.connect(new TransportV2(new URL(fleet.url)))
    onTestFinished(() => client.close())
    await client.listTools()
    const call = async (name: string, args = {}): Promise<Record<string, unknown>> =>
      (await client.callTool({ name, arguments: args })).structuredContent as Record<
        string,
        unknown
      >
    const { session } = (await call('open_session')) ?? {}
    for (const note of NOTES) await call('add_note', { session, note })
    const holder = String((await call('get_counter', { session }))['instance'])
    const questions: string[] = []
    client.setRequestHandler('elicitation/create', async ({ params }) => {
      questions.push(params.message)
      fleet.signal(holder, 'SIGKILL')
      return YES
    })
    const cleared = await call('clear_notes', { session })
    expect(cleared).toMatchObject({ confirmed: true, notes_deleted: 2 })
    expect(cleared['instance']).not.toBe(holder)
    expect(questions).toEqual(['Delete all 2 notes of this session?'])
    expect(await call('list_notes', { session })).toMatchObject({ notes: [] })
  })

  async function clear(session: string, params: object = {}): Promise<RpcReply> {
    const capabilities = { elicitation: {} }
    const more = { capabilities, params }
    return replyTo(await fleet.fetch(askTool('clear_notes', { session }, more)))
  }

  async function instanceOf(session: string): Promise<unknown> {
    return (await runTool(fleet.fetch, 'increment_counter', { session }))['instance']
  }

  /** Where a session's calls by its id go. */
  async function holderOf(session: string, headers = {}): Promise<unknown> {
    const call = JSON.stringify(toolCall('get_counter'))
    const response = await fleet.fetch(post(call, { 'mcp-session-id': session, ...headers }))
    return ((await response.json()) as RpcReply).result?.structuredContent?.['instance']
  }

  async function handleElsewhere(instance: unknown): Promise<string> {
    for (;;) {
      const session = await openHandle(fleet.fetch)
      if ((await instanceOf(session)) !== instance) return session
    }
  }
})

describe('a fleet with SESSIONS=off', () => {
  it('gives a client of 2025-11-25 no id, and a handle that is good on all instances', async () => {
    const fleet = await startFleet({ SESSIONS: 'off' })
    onTestFinished(async () => void (await fleet.stop()))
    const call = await connectWithoutSession(fleet.url)
    const { session } = (await call('open_session')) ?? {}
    const instances = new Set<unknown>()
    for (let counter = 1; counter <= 12; counter++) {
      const result = await call('increment_counter', { session })
      expect(result?.['counter']).toBe(counter)
      instances.add(result?.['instance'])
    }
    console.log(`12 calls of a client without a session, on ${instances.size} instances`)
    const [killed = ''] = [...instances].map(String)
    fleet.signal(killed, 'SIGKILL')
    expect(await call('increment_counter', { session })).toMatchObject({ counter: 13 })
    for (const { url } of fleet.map().instances.filter(({ id }) => id !== killed)) {
      const read = { ...toolCall('get_counter', { session }) }
      const at = (request: Request) => fetch(new Request(`${url}/mcp`, request))
      expect((await rpc(at, '', read)).result?.structuredContent).toMatchObject({ counter: 13 })
    }
  })
})
