import { runInDurableObject } from 'cloudflare:test'
import * as z from 'zod'
import { describe, expect, it, vi } from 'vitest'
import { slot } from '../../mcp/session/state.ts'
import { defineTool } from '../../mcp/session/tool.ts'
import {
  ANALYSIS_PROGRESS,
  analysisLogs,
  callTool,
  openSession,
  readEvents,
  send,
  toolCall,
  until,
  type RpcReply,
} from '../support/mcp.ts'
import { offer } from './crashing.ts'
import { edgeFetch as fetch, evict, evictClosing, objectOf, reset, streamsOf } from './support.ts'

vi.setConfig({ testTimeout: 60_000 })

const n = slot('n', z.int().default(0))

// Time enough to be reset in, on a machine that has more to do.
const SLOW_MS = 1500

/** Speaks, is slow, has its effect, is slow and speaks again. */
const slow = defineTool({
  name: 'slow',
  description: 'Adds 1 in its own time',
  input: z.strictObject({}),
  async run(call) {
    await call.log('info', 'begun')
    await call.sleep(SLOW_MS)
    const state = await call.update((before) => n.set(before, n.get(before) + 1))
    await call.sleep(SLOW_MS)
    await call.log('info', 'done')
    return { n: n.get(state) }
  },
})
offer(slow)

describe('a call on the edge', () => {
  it.each([
    ['is reset', reset, false],
    // The platform asks an object to leave when it is idle; one that runs a call is not.
    ['is to be evicted', evict, true],
    ['is to be evicted with its sockets closed', evictClosing, true],
  ])('goes on under its client when its object %s', async (_what, kill, lingers) => {
    const session = await openSession(fetch)
    const call = toolCall('analyze_data', { num_items: 3 }, 'mine') as { params: object }
    const params = { ...call.params, _meta: { progressToken: 't' } }
    const stream = readEvents(await send(fetch, session, { ...call, params }))
    const said: Said[] = []
    const places: number[] = []
    for await (const { id, data } of stream) {
      places.push(Number(id.split('.')[1]))
      if (data !== '') said.push(JSON.parse(data) as Said)
      // Not waited for: an eviction lets the call end.
      if ([2, 5, 8].includes(said.length)) void kill(session).catch(() => undefined)
    }
    const logs = said.filter(({ method }) => method === 'notifications/message')
    const [, instance = ''] = / on (.*)$/.exec(logs[0]?.params?.data?.msg ?? '') ?? []
    const heard = logs.map(({ params: told }) => [told?.level, told?.data?.msg])
    expect(heard).toEqual(analysisLogs(instance))
    const steps = said.filter(({ method }) => method === 'notifications/progress')
    expect(steps.map(({ params: told }) => [told?.progress, told?.total, told?.message])).toEqual(
      ANALYSIS_PROGRESS,
    )
    expect(said).toHaveLength(analysisLogs('').length + ANALYSIS_PROGRESS.length + 1)
    expect(places).toEqual([...new Set(places)].toSorted((a, b) => a - b))
    const last = said.at(-1)
    expect(last).toMatchObject({ id: 'mine', result: { structuredContent: { total_score: 9 } } })
    expect(last?.result?.structuredContent?.['instance'] === instance).toBe(lingers)
  })

  it('is finished within ten seconds when its object was reset and its client is gone', async () => {
    const session = await openSession(fetch)
    const stream = readEvents(await send(fetch, session, toolCall('slow')))
    await stream.next()
    await stream.next()
    await stream.return(undefined)
    await reset(session)
    const since = performance.now()
    expect(await entriesOf(session)).not.toContain('end')
    // Looking into storage wakes the object, but only its alarm makes it go on.
    await until(
      () => entriesOf(session),
      (kinds) => kinds.includes('end'),
    )
    const tookMs = Math.round(performance.now() - since)
    console.log(`finished ${tookMs} ms after the reset`)
    expect(tookMs).toBeLessThan(10_000)
    expect(tookMs).toBeGreaterThan(1000)
    expect((await entriesOf(session)).filter((kind) => kind === 'taken')).toHaveLength(1)
    expect(await stateOf(session)).toEqual({ n: 1 })
    const due = await until(
      () => alarmOf(session),
      (at) => at - Date.now() > 10_000,
    )
    expect(due - Date.now()).toBeGreaterThan(29 * 60_000)
    expect(await callTool(fetch, session, 'slow')).toEqual({ n: 2 })
  })

  it('is finished by a later alarm when its object is reset at each', async () => {
    const session = await openSession(fetch)
    const stream = readEvents(await send(fetch, session, toolCall('slow')))
    await stream.next()
    await stream.next()
    await stream.return(undefined)
    for (let alarms = 1; alarms <= 2; alarms++) {
      await reset(session)
      const taken = (kinds: readonly string[]): boolean =>
        kinds.filter((kind) => kind === 'taken').length === alarms
      await until(() => entriesOf(session), taken)
    }
    await until(
      () => entriesOf(session),
      (kinds) => kinds.includes('end'),
    )
    expect(await stateOf(session)).toEqual({ n: 1 })
  })
})

/** The kinds of the entries that are stored, without a call to the object. */
async function entriesOf(session: string): Promise<string[]> {
  return Object.values(await streamsOf(session))
    .flat()
    .map(({ kind }) => kind)
}

function stateOf(session: string): Promise<unknown> {
  return runInDurableObject(objectOf(session), (_object, { storage }) => {
    return (JSON.parse(String(storage.kv.get('session'))) as { state: unknown }).state
  })
}

function alarmOf(session: string): Promise<number> {
  return runInDurableObject(objectOf(session), async (_object, { storage }) =>
    Number(await storage.getAlarm()),
  )
}

interface Said extends RpcReply {
  readonly method?: string
  readonly params?: {
    readonly level?: string
    readonly data?: { readonly msg: string }
    readonly progress?: number
    readonly total?: number
    readonly message?: string
  }
}
