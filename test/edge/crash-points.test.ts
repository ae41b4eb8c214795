import * as fc from 'fast-check'
import * as z from 'zod'
import { describe, expect, it, vi } from 'vitest'
import { slot } from '../../mcp/session/state.ts'
import { defineTool } from '../../mcp/session/tool.ts'
import { callTool, openSession, readEvents, send, toolCall, type RpcReply } from '../support/mcp.ts'
import { offer, planCrashes, SIDES, type Crash } from './crashing.ts'
import { edgeFetch as fetch } from './support.ts'

vi.setConfig({ testTimeout: 300_000 })

const n = slot('n', z.int().default(0))
const raise = (state: Parameters<typeof n.get>[0]): ReturnType<typeof n.set> =>
  n.set(state, n.get(state) + 1)
/** Whoever is paid can tell repeats by their key. */
const paid = new Map<string, number>()

const everything = defineTool({
  name: 'everything',
  description: 'Does each thing that a call can do',
  input: z.strictObject({}),
  async run(call) {
    const states = [await call.read(), await call.update(raise)]
    await call.log('info', 'one')
    await call.progress(1, 2, 'two')
    await call.sleep(5)
    states.push(await call.update(raise), await call.read())
    const receipt = await call.step('pay', async (key) => {
      paid.set(key, (paid.get(key) ?? 0) + 1)
      return key
    })
    await call.log('info', 'three')
    const { action } = await call.elicit({
      message: 'four',
      requestedSchema: { type: 'object', properties: { yes: { type: 'boolean' } } },
    })
    states.push(await call.update(raise))
    await call.progress(2, 2, 'five')
    return { seen: states.map((state) => n.get(state)), action, receipt }
  },
})
offer(everything)

describe('a call whose object is reset', () => {
  it.each(SIDES)('%s any of its operations comes to one result', async (side) => {
    let after = 1
    for (; ; after++) {
      const { left } = await callUnder([{ after, side }])
      if (left > 0) break
    }
    console.log(`${after - 1} crash points, ${side} each`)
    expect(after).toBeGreaterThan(20)
  })

  it('several times comes to one result', async () => {
    let crashes = 0
    const crash = fc.record({
      after: fc.integer({ min: 1, max: 25 }),
      side: fc.constantFrom(...SIDES),
    })
    const plan = fc.array(crash, { minLength: 2, maxLength: 4 })
    const holds = fc.asyncProperty(plan, async (planned) => {
      const { left } = await callUnder(planned)
      crashes += planned.length - left
    })
    await fc.assert(holds, { numRuns: 60, seed: 1, endOnFailure: true })
    console.log(`${crashes} crashes in 60 calls`)
    expect(crashes).toBeGreaterThan(120)
  })
})

/** One call by a client that reads one stream and never comes back; answers what was not due. */
async function callUnder(crashes: readonly Crash[]): Promise<{ left: number }> {
  const session = await openSession(fetch)
  const plan = planCrashes(session, crashes)
  const call = { ...toolCall('everything', {}, 'mine') } as { params: object }
  const params = { ...call.params, _meta: { progressToken: 't' } }
  const response = await send(fetch, session, { ...call, params })
  const places: number[] = []
  const heard: string[] = []
  let result: RpcReply['result']
  for await (const { id, data } of readEvents(response)) {
    places.push(Number(id.split('.')[1]))
    if (data === '') continue
    const said = JSON.parse(data) as Said
    heard.push(said.params?.message ?? said.params?.data?.msg ?? String(said.id))
    result = said.result
    if (said.method !== 'elicitation/create') continue
    const answer = { jsonrpc: '2.0', id: said.id, result: { action: 'accept', content: {} } }
    // Whoever is not sure that an answer has arrived says it again.
    for (let times = 0; times < 2; times++) await (await send(fetch, session, answer)).text()
  }
  const left = plan.left.length
  planCrashes(session, [])
  const { receipt, ...outcome } = result?.structuredContent ?? {}
  const [stream = ''] = String(receipt).split('/')
  const { seen } = await callTool(fetch, session, 'seen')
  const receipts = [...paid.keys()].filter((key) => key.startsWith(`${stream}/`))
  expect({ crashes, heard, places, outcome, seen, receipts }).toEqual({
    crashes,
    heard: ['one', 'two', 'three', 'four', 'five', 'mine'],
    places: [...new Set(places)].toSorted((x, y) => x - y),
    outcome: { seen: [0, 1, 2, 2, 3], action: 'accept' },
    seen: 3,
    receipts: [receipt],
  })
  return { left }
}

offer(
  defineTool({
    name: 'seen',
    description: 'Reads',
    input: z.strictObject({}),
    run: async (call) => ({ seen: n.get(await call.read()) }),
  }),
)

interface Said extends RpcReply {
  readonly method?: string
  readonly params?: { readonly message?: string; readonly data?: { readonly msg: string } }
}
