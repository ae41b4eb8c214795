import type { Client as ClientV2 } from '@modelcontextprotocol/client'
import { Client as ClientV1 } from '@modelcontextprotocol/sdk/client/index.js'
import { StreamableHTTPClientTransport as TransportV1 } from '@modelcontextprotocol/sdk/client/streamableHttp.js'
import { LoggingMessageNotificationSchema } from '@modelcontextprotocol/sdk/types.js'
import { expect } from 'vitest'
import { ResilientClient } from '../../client/resilient-client.ts'
import {
  analysisTold,
  connect,
  differences,
  resuming,
  speakingCall,
  toldBy,
  watchTold,
  type Told,
} from './client.ts'
import type { Fleet } from './fleet.ts'
import { faultsOf, type Operation } from './history.ts'
import { analysisLogs, callTool, openSession, type RpcReply } from './mcp.ts'
import { percentile } from './percentile.ts'

/** One client with one session. `call` throws on whatever is not a result. */
export interface Caller {
  call(tool: string, args: Record<string, unknown>): Promise<Record<string, unknown>>
  close(): Promise<void>
}

export interface Report {
  readonly calls: number
  /** How often each error came. */
  readonly errors: Readonly<Record<string, number>>
  readonly faults: readonly string[]
  /** The longest call of each session, in ms: how long its user saw nothing happen. */
  readonly longest: readonly number[]
}

/** Calls from all sessions at once until `disturb` has done its worst; then checks what came of it. */
export async function underChaos(
  callers: readonly Caller[],
  disturb: () => Promise<void>,
): Promise<Report> {
  const histories = callers.map((): Operation[] => [])
  const errors: Record<string, number> = {}
  const load = { over: false }
  const running = Promise.all(
    callers.map(async (caller, index) => {
      while (!load.over) {
        await operate(caller, `${histories[index]?.length} of session ${index}`).then(
          (operation) => histories[index]?.push(operation),
          (error) => {
            const text = textOf(error)
            errors[text] = (errors[text] ?? 0) + 1
          },
        )
        await pause(Math.random() * 60)
      }
    }),
  )
  await disturb().finally(() => (load.over = true))
  await running
  const faults = await Promise.all(
    callers.map(async (caller, index) => {
      const { counter } = await caller.call('get_counter', {})
      const { notes } = await caller.call('list_notes', {})
      const final = { counter: Number(counter), notes: notes as string[] }
      return faultsOf(histories[index] ?? [], final)
    }),
  )
  return {
    calls: histories.flat().length,
    errors,
    faults: faults.flat(),
    longest: histories.map((own) =>
      Math.max(...own.map(({ invoked, completed }) => completed - invoked)),
    ),
  }
}

/** Prints a report and checks it; answers how long users saw nothing happen. */
export function expectNoFault({ calls, errors, faults, longest }: Report): {
  p99Ms: number
  maxMs: number
} {
  const [p99Ms, maxMs] = [Math.round(percentile(longest, 99)), Math.round(Math.max(...longest))]
  console.log(`${calls} calls; the longest of a session: p99 ${p99Ms} ms, max ${maxMs} ms`)
  expect(errors).toEqual({})
  expect(faults).toEqual([])
  return { p99Ms, maxMs }
}

/** Of ten: eight increments, one note, one read. */
async function operate(caller: Caller, note: string): Promise<Operation> {
  const dice = Math.random() * 10
  const kind =
    dice < 8 ? 'increment' : dice < 9 ? 'add_note' : dice < 9.5 ? 'get_counter' : 'list_notes'
  const invoked = performance.now()
  const result = await caller.call(
    kind === 'increment' ? 'increment_counter' : kind,
    kind === 'add_note' ? { note } : {},
  )
  const completed = performance.now()
  const value = (result['counter'] ??
    result['notes_count'] ??
    result['notes']) as Operation['value']
  return { kind, invoked, completed, value, ...(kind === 'add_note' && { note }) }
}

/** Stock clients, which neither retry nor name their calls: bare HTTP, and both official ones. */
export async function stockCallers(fleet: Fleet, count: number): Promise<Caller[]> {
  const makers = [bareCaller, bareCaller, bareCaller, callerV1, callerV2]
  return Promise.all(
    Array.from({ length: count }, (_, index) =>
      (makers[index % makers.length] ?? bareCaller)(fleet),
    ),
  )
}

async function bareCaller({ fetch }: Fleet): Promise<Caller> {
  const session = await openSession(fetch)
  return { call: (tool, args) => callTool(fetch, session, tool, args), close: async () => {} }
}

/** What each message of an analysis begins with, on whatever instance. */
const ANALYSIS = analysisLogs('').map(([, text]) => text)

/** Official clients that run one long call after the other, until `stop` says what went wrong. */
export async function streamingLoad(
  { url }: Fleet,
  count: number,
): Promise<{ stop: () => Promise<string[]> }> {
  const faults: string[] = []
  const load = { over: false }
  const connected = await Promise.all(Array.from({ length: count }, () => connect(url)))
  const running = connected.map(async ({ client, logs }) => {
    while (!load.over) {
      const heard = logs.length
      const call = client.callTool({ name: 'analyze_data', arguments: { num_items: 3 } })
      const fault = await call.then(
        () => {
          const texts = logs.slice(heard).map(([, text]) => text)
          const right = texts.length === ANALYSIS.length
          return right && ANALYSIS.every((text, at) => texts[at]?.startsWith(text))
            ? undefined
            : `Not what it says: ${JSON.stringify(texts)}`
        },
        (error) => textOf(error),
      )
      if (fault === undefined) continue
      faults.push(fault)
      // A client that is closed, as when the test has failed, would fail on and on without a pause.
      break
    }
    await client.close()
  })
  return {
    async stop() {
      load.over = true
      await Promise.all(running)
      return faults
    },
  }
}

async function callerV1({ url }: Fleet): Promise<Caller> {
  const client = new ClientV1({ name: 'chaos', version: '1' })
  await client.connect(new TransportV1(new URL(url)))
  return sdkCaller(client)
}

async function callerV2({ url }: Fleet): Promise<Caller> {
  return sdkCaller((await connect(url)).client)
}

/** Clients that retry under a key of their own. */
export async function resilientCallers(
  { url }: { readonly url: string | readonly string[] },
  count: number,
): Promise<Caller[]> {
  const all = [url].flat()
  return Promise.all(
    Array.from({ length: count }, async (_, index) => {
      // Each begins at another one.
      const at = index % all.length
      const urls = [...all.slice(at), ...all.slice(0, at)]
      const client = new ResilientClient({ name: 'chaos', version: '3' }, { urls })
      await client.connect()
      return sdkCaller(client)
    }),
  )
}

function sdkCaller(client: ClientV1 | ClientV2): Caller {
  return {
    async call(name, args) {
      const result = await client.callTool({ name, arguments: args })
      if (result.isError === true) throw new Error(JSON.stringify(result.content))
      return result.structuredContent as Record<string, unknown>
    },
    close: () => client.close(),
  }
}

function textOf(error: unknown): string {
  const cause = error instanceof Error ? error.cause : undefined
  return cause === undefined ? String(error) : `${String(error)} (${textOf(cause)})`
}

/** A call, and all that its client is to hear of it. */
export interface Expected {
  readonly tool: string
  readonly args: Record<string, unknown>
  readonly told: readonly (string | RegExp)[]
  /** Beside the name of the instance. */
  readonly result: Record<string, unknown>
}

/** An analysis of so many items, and a watch of so many seconds over a counter that nobody raises. */
export function callsThatSpeak(items: number, seconds: number): Expected[] {
  return [
    {
      tool: 'analyze_data',
      args: { num_items: items },
      told: analysisTold(items),
      result: { items_processed: items, total_score: 0.75 * items * (items + 1) },
    },
    {
      tool: 'watch_counter',
      args: { duration_seconds: seconds },
      told: watchTold(seconds),
      result: { changes: [], total_changes: 0 },
    },
  ]
}

type Hear = (text: string) => void

/** A client with a session of its own that hears what its calls say. */
export interface Listener {
  readonly kind: string
  /** What its SDK held for wrong, but for a connection that broke: that it sees to by itself. */
  readonly errors: readonly string[]
  /** Runs a call, `hear`s what it says, and answers its results: one, that is. */
  run(call: Expected, hear: Hear): Promise<unknown[]>
  close(): Promise<void>
}

export interface ListeningReport {
  readonly calls: number
  readonly events: number
  readonly faults: readonly string[]
  /** For how long each client heard nothing of a call that it waited for, at the most; in ms. */
  readonly longest: readonly number[]
}

/** Has each client run `calls` side by side, again and again, until `disturb` has done its worst. */
export async function listenThrough(
  listeners: readonly Listener[],
  calls: readonly Expected[],
  disturb: () => Promise<void>,
): Promise<ListeningReport> {
  const load = { over: false }
  const listen = async (listener: Listener): Promise<Heard[]> => {
    const heard: Heard[] = []
    do heard.push(...(await Promise.all(calls.map((call) => hearOut(listener, call)))))
    while (!load.over)
    return heard
  }
  const running = Promise.all(listeners.map(listen))
  await disturb().finally(() => (load.over = true))
  const heard = await running
  const all = heard.flat()
  return {
    calls: all.length,
    events: all.reduce((sum, { events }) => sum + events, 0),
    faults: [
      ...all.flatMap(({ faults }) => faults),
      ...listeners.flatMap(({ kind, errors }) => errors.map((error) => `${kind}: ${error}`)),
    ],
    longest: heard.map((own) => Math.max(...own.map(({ pauseMs }) => pauseMs))),
  }
}

interface Heard {
  readonly events: number
  readonly faults: readonly string[]
  readonly pauseMs: number
}

async function hearOut(listener: Listener, call: Expected): Promise<Heard> {
  const told: string[] = []
  const times = [performance.now()]
  const hear = (text: string): void => {
    times.push(performance.now())
    told.push(text)
  }
  const results = await listener.run(call, hear).catch((error: unknown) => [textOf(error)])
  times.push(performance.now())
  const faults = differences(told, call.told)
  const { instance: _, ...result } = (results[0] ?? {}) as Record<string, unknown>
  if (results.length !== 1 || JSON.stringify(result) !== JSON.stringify(call.result)) {
    faults.push(`Not its result: ${JSON.stringify(results)}`)
  }
  const pauses = times.map((time, at) => time - (times[at - 1] ?? time))
  return {
    events: told.length + results.length,
    faults: faults.map((fault) => `${listener.kind}, ${call.tool}: ${fault}`),
    pauseMs: Math.max(...pauses),
  }
}

/** Stock clients of each kind: bare SSE, and both official ones as they are. */
export async function listenersOf(fleet: Fleet, perKind: number): Promise<Listener[]> {
  const makers = [bareListener, listenerV1, listenerV2]
  const all = makers.flatMap((make) => Array.from({ length: perKind }, () => make(fleet)))
  return Promise.all(all)
}

async function bareListener({ fetch }: Fleet): Promise<Listener> {
  const session = await openSession(fetch)
  let calls = 0
  return {
    kind: 'bare SSE',
    errors: [],
    async run({ tool, args }, hear) {
      const results: unknown[] = []
      for await (const { data } of resuming(fetch, speakingCall(session, tool, args, ++calls))) {
        const message = JSON.parse(data) as RpcReply & Partial<Told>
        if (message.method !== undefined) hear(toldBy(message))
        else results.push(message.result?.structuredContent ?? message)
      }
      return results
    },
    close: async () => {},
  }
}

async function listenerV1({ url }: Fleet): Promise<Listener> {
  const client = new ClientV1({ name: 'chaos', version: '1' })
  const listener = sdkListener('official v1', client, (params, options) =>
    client.callTool(params, undefined, options),
  )
  client.setNotificationHandler(LoggingMessageNotificationSchema, listener.log)
  await client.connect(new TransportV1(new URL(url)))
  return listener
}

async function listenerV2({ url }: Fleet): Promise<Listener> {
  const { client } = await connect(url)
  const listener = sdkListener('official v2', client, (params, options) =>
    client.callTool(params, options),
  )
  client.setNotificationHandler('notifications/message', listener.log)
  return listener
}

interface SdkCall {
  readonly timeout: number
  readonly onprogress: (step: NonNullable<Told['params']>) => void
}

function sdkListener(
  kind: string,
  client: ClientV1 | ClientV2,
  call: (
    params: { name: string; arguments: Record<string, unknown> },
    options: SdkCall,
  ) => Promise<Record<string, unknown>>,
): Listener & { readonly log: (notification: { params: { data?: unknown } }) => void } {
  const errors: string[] = []
  // Two calls speak at once, and a log message does not say which one it is of.
  const hearing = new Map<string, Hear>()
  client.onerror = (error) => {
    if (!/disconnected/.test(error.message)) errors.push(textOf(error))
  }
  return {
    kind,
    errors,
    log({ params }) {
      const text = (params.data as { msg: string }).msg
      hearing.get(text.startsWith('Watch') ? 'watch_counter' : 'analyze_data')?.(text)
    },
    async run({ tool, args }, hear) {
      hearing.set(tool, hear)
      const result = await call(
        { name: tool, arguments: args },
        { timeout: 120_000, onprogress: (params) => hear(toldBy({ params })) },
      )
      return [result['isError'] === true ? result['content'] : result['structuredContent']]
    },
    close: () => client.close(),
  }
}

/** Kills one of the instances that run. */
export function killAny(fleet: Fleet): void {
  const pids = fleet.map().instances.flatMap(({ pid }) => pid ?? [])
  const pid = pids[Math.floor(Math.random() * pids.length)]
  if (pid !== undefined) process.kill(pid, 'SIGKILL')
}

export async function everySecond(
  seconds: number,
  disturb: () => void | Promise<unknown>,
): Promise<void> {
  for (let second = 0; second < seconds; second++) {
    await pause(1000)
    await disturb()
  }
}

/** How long a load goes on before the next blow: a rhythm, and never what a test waits for. */
export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}
