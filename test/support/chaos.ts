import { Client as ClientV2 } from '@modelcontextprotocol/client'
import { StreamableHTTPClientTransport as TransportV2 } from '@modelcontextprotocol/client'
import { Client as ClientV1 } from '@modelcontextprotocol/sdk/client/index.js'
import { StreamableHTTPClientTransport as TransportV1 } from '@modelcontextprotocol/sdk/client/streamableHttp.js'
import type { Fleet } from './fleet.ts'
import { faultsOf, type Operation } from './history.ts'
import { callTool, openSession } from './mcp.ts'

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

export interface Chaos {
  readonly callers: readonly Caller[]
  readonly seconds: number
  /** Done again and again while the load runs. */
  readonly disturb: (round: number) => Promise<void>
  readonly everyMs: number
}

/** Calls from all sessions at once while `disturb` does its worst; then checks what came of it. */
export async function underChaos({ callers, seconds, disturb, everyMs }: Chaos): Promise<Report> {
  const until = performance.now() + seconds * 1000
  const operations: Operation[] = []
  const errors: Record<string, number> = {}
  const disturbing = (async (): Promise<void> => {
    for (let round = 0; performance.now() + everyMs < until; round++) {
      await pause(everyMs)
      await disturb(round)
    }
  })()
  await Promise.all(
    callers.map(async (caller, index) => {
      for (let turn = 0; performance.now() < until; turn++) {
        await operate(caller, `session ${index}`, turn).then(
          (operation) => operations.push(operation),
          (error) => {
            const text = textOf(error)
            errors[text] = (errors[text] ?? 0) + 1
          },
        )
        await pause(Math.random() * 60)
      }
    }),
  )
  await disturbing
  const faults = await Promise.all(
    callers.map(async (caller, index) => {
      const { counter } = await caller.call('get_counter', {})
      const { notes } = await caller.call('list_notes', {})
      const own = operations.filter(({ session }) => session === `session ${index}`)
      return faultsOf(own, { counter: Number(counter), notes: notes as string[] })
    }),
  )
  const longest = callers.map((_, index) => {
    const own = operations.filter(({ session }) => session === `session ${index}`)
    return Math.max(...own.map(({ invoked, completed }) => completed - invoked))
  })
  return { calls: operations.length, errors, faults: faults.flat(), longest }
}

/** Of ten: eight increments, one note, one read. */
async function operate(caller: Caller, session: string, turn: number): Promise<Operation> {
  const dice = Math.random() * 10
  const kind =
    dice < 8 ? 'increment' : dice < 9 ? 'add_note' : dice < 9.5 ? 'get_counter' : 'list_notes'
  const note = `${session}, turn ${turn}`
  const invoked = performance.now()
  const result = await caller.call(
    kind === 'increment' ? 'increment_counter' : kind,
    kind === 'add_note' ? { note } : {},
  )
  const completed = performance.now()
  const value = (result['counter'] ??
    result['notes_count'] ??
    result['notes']) as Operation['value']
  return { session, kind, invoked, completed, value, ...(kind === 'add_note' && { note }) }
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

async function callerV1({ url }: Fleet): Promise<Caller> {
  const client = new ClientV1({ name: 'chaos', version: '1' })
  await client.connect(new TransportV1(new URL(url)))
  return sdkCaller(client)
}

async function callerV2({ url }: Fleet): Promise<Caller> {
  const client = new ClientV2({ name: 'chaos', version: '2' })
  await client.connect(new TransportV2(new URL(url)))
  return sdkCaller(client)
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

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}

/** The same for all percentiles of the tests and benches: nearest rank. */
export function percentile(values: readonly number[], percent: number): number {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor((sorted.length * percent) / 100))] ?? NaN
}
