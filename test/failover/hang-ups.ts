/** Clients that hang up in the middle of a call. In the revision without sessions that cancels it. */
import { expect } from 'vitest'
import { differences, analysisTold, toldBy, type Told } from '../support/client.ts'
import { isStream, readEvents, until } from '../support/mcp.ts'
import { askTool, openHandle, replyTo, runTool } from '../support/stateless.ts'
import type { Send } from './sockets.ts'
import { summaryOf } from './summaries.ts'

/** Of a call that is to be answered with a stream. */
const SPEAKS = { level: 'debug', progressToken: 'told' } as const
const ITEMS = 2
const ANALYSIS = { num_items: ITEMS }
const WHOLE = JSON.stringify({ total_score: 4.5, items_processed: ITEMS })
const SAYS = analysisTold(ITEMS).length
/** What a session may run at once. */
const MAX_CALLS = 64

/** How a call is answered. */
export type Kind = 'stream' | 'JSON'
export const KINDS: readonly Kind[] = ['stream', 'JSON']

interface HungUp {
  readonly session: string
  readonly kind: Kind
  /** How many messages the call had said by then, or would have. */
  readonly stage: number
}

/**
 * Begins 50 analyses of a session each and hangs up on each at some stage; answers what is wrong once
 * another one, begun when the last client had gone, has ended.
 */
export async function hangUpOnAnalyses(fetch: Send): Promise<{ tried: number; faults: string[] }> {
  const stages = Array.from({ length: 25 }, (_, index) => index % SAYS)
  const calls = stages.flatMap((stage) => KINDS.map((kind) => ({ stage, kind })))
  const sessions = await Promise.all(calls.map(() => openHandle(fetch)))
  // By its messages the silent ones know at what stage they are.
  const pace = await startPace(fetch)
  const hungUp = await Promise.all(
    calls.map(async (call, index): Promise<HungUp> => {
      const session = sessions[index] ?? ''
      await (call.kind === 'stream' ? hangUpOnStream : hangUpOnSilent)(fetch, session, {
        ...pace,
        stage: call.stage,
      })
      return { session, ...call }
    }),
  )
  const other = await openHandle(fetch)
  const args = { ...ANALYSIS, session: other }
  expect(await runTool(fetch, 'analyze_data', args, SPEAKS)).toMatchObject({ total_score: 4.5 })
  expect(await summaryOf(fetch, other)).toMatchObject({
    analysis_result: { items_processed: ITEMS },
  })
  const faults = await Promise.all(hungUp.map((call) => faultsOf(fetch, call)))
  return { tried: hungUp.length, faults: faults.flat() }
}

async function faultsOf(fetch: Send, { session, kind, stage }: HungUp): Promise<string[]> {
  const { analysis_result: result } = await summaryOf(fetch, session)
  // When its last message is out, its commit is on the way.
  const isWhole = stage >= SAYS - 1 && JSON.stringify(result) === WHOLE
  return result === null || isWhole ? [] : [`${kind}, at ${stage}: ${JSON.stringify(result)}`]
}

interface Pace {
  readonly reached: (stage: number) => Promise<void>
}

/** An analysis that nobody hangs up on. */
async function startPace(fetch: Send): Promise<Pace> {
  const session = await openHandle(fetch)
  const marks = Array.from({ length: SAYS + 1 }, () => Promise.withResolvers<void>())
  const call = { ...ANALYSIS, session }
  const response = await fetch(askTool('analyze_data', call, SPEAKS))
  const told: string[] = []
  void (async () => {
    for await (const { data } of readEvents(response)) {
      const message = JSON.parse(data) as Told
      if (message.method === undefined) continue
      told.push(toldBy(message))
      marks[told.length]?.resolve()
    }
    expect(differences(told, analysisTold(ITEMS))).toEqual([])
  })()
  marks[0]?.resolve()
  return { reached: async (stage) => marks[stage]?.promise }
}

type Stage = Pace & { readonly stage: number }

async function hangUpOnStream(fetch: Send, session: string, { stage }: Stage): Promise<void> {
  const stop = new AbortController()
  const response = await fetch(
    askTool('analyze_data', { ...ANALYSIS, session }, SPEAKS),
    stop.signal,
  )
  expect(isStream(response)).toBe(true)
  const events = readEvents(response)
  for (let heard = 0; heard < stage; heard++) await events.next()
  stop.abort()
}

async function hangUpOnSilent(fetch: Send, session: string, pace: Stage): Promise<void> {
  const stop = new AbortController()
  const answered = fetch(askTool('analyze_data', { ...ANALYSIS, session }), stop.signal)
  await pace.reached(pace.stage)
  stop.abort()
  await answered.catch(() => undefined)
}

export interface Freed {
  readonly session: string
  /** How long it took until all places were free again. */
  readonly ms: number
}

/**
 * Has one session run all that it may, each call for half a minute, then hangs up on them all. It takes
 * no more calls while they run, so that one which is taken shows that they do not.
 */
export async function hangUpOnAll(fetch: Send, kind: Kind): Promise<Freed> {
  const session = await openHandle(fetch)
  const statusOf = async (tool: string, args = {}): Promise<number> => {
    const response = await fetch(askTool(tool, { session, ...args }))
    await replyTo(response)
    return response.status
  }
  // From now on it has a holder, and that is where all calls go.
  expect(await statusOf('get_counter')).toBe(200)
  const stop = new AbortController()
  const more = kind === 'stream' ? SPEAKS : {}
  const running: Promise<Response>[] = []
  const watch = askTool.bind(undefined, 'watch_counter', { session, duration_seconds: 30 }, more)
  // Some are refused; and a holder that is found too slow under its load has others take some.
  const fill = (): Promise<number> => {
    for (let count = 0; count < MAX_CALLS; count++) running.push(fetch(watch(), stop.signal))
    return statusOf('get_counter')
  }
  await until(fill, (status) => status === 429)
  if (kind === 'stream') await Promise.all(running)
  stop.abort()
  const began = performance.now()
  await Promise.allSettled(running)
  await until(
    () => statusOf('get_counter'),
    (status) => status === 200,
  )
  const asMany = Array.from({ length: MAX_CALLS }, () => 'watch_counter')
  await until(
    () => Promise.all(asMany.map((tool) => statusOf(tool, { duration_seconds: 1 }))),
    (all) => all.every((status) => status === 200),
  )
  return { session, ms: Math.round(performance.now() - began) }
}
