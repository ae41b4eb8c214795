/** Readers of streams that never read. */
import { afterEach, describe, expect, it } from 'vitest'
import { BASE, callTool, openSession, readEvents, until, type Fetch } from '../support/mcp.ts'
import { startFleet } from '../support/fleet.ts'
import { startNode } from '../support/node.ts'
import { footprintsOf, growthOf, stuckOn } from './abuse-footprint.ts'
import { openUnread, type Unread } from './abuse-readers.ts'
import { SHOUTING_SERVER } from './abuse-server.ts'

const READERS = 3
// More than fits between the two: the sockets' buffers, HAProxy's, and what we hold back.
const SHOUT = { messages: 160, size: 100_000 }
const NUMBERS = Array.from({ length: SHOUT.messages }, (_, at) => at)
// What is held back for a reader, and the garbage of all that went by.
const GROWN_MB = 250
// Who has read nothing between two keep-alives does not read.
const SETTINGS = { KEEP_ALIVE_SECONDS: '2' }
const GONE_WITHIN_MS = 15_000

interface Server {
  readonly fetch: Fetch
  readonly url: string
  readonly instances: readonly { readonly url: string; readonly pid: number | null }[]
  readonly stop: () => Promise<unknown>
}

const START = {
  async fleet(): Promise<Server> {
    const fleet = await startFleet({ ...SETTINGS, SERVER_ENTRY: SHOUTING_SERVER })
    return { ...fleet, instances: fleet.map().instances }
  },
  async node(): Promise<Server> {
    const node = await startNode(SETTINGS, SHOUTING_SERVER)
    return { ...node, instances: [node], stop: () => node.kill('SIGKILL') }
  },
}

describe.each(['fleet', 'node'] as const)('readers that never read: %s', (name) => {
  let server: Server
  let readers: readonly Unread[] = []

  afterEach(async () => {
    for (const { release } of readers) release()
    await server.stop()
  })

  it('are cut, hold nothing, and find all that they have missed when they resume', async () => {
    server = await START[name]()
    const { fetch, url, instances } = server
    const sessions = await Promise.all(Array.from({ length: READERS }, () => openSession(fetch)))
    const pids = instances.map(({ pid }) => pid)
    const before = footprintsOf(pids)
    readers = await Promise.all(sessions.map((session) => openUnread(portOf({ url }), session)))

    await Promise.all(sessions.map((session) => callTool(fetch, session, 'shout', SHOUT)))
    for (const { residentMb } of growthOf(before, footprintsOf(pids))) {
      expect(residentMb).toBeLessThan(GROWN_MB)
    }
    const shouted = performance.now()
    const isStuck = async (): Promise<boolean> => stuckOn(instances.map(portOf)) > 0
    await until(isStuck, (stuck) => !stuck)
    const tookMs = Math.round(performance.now() - shouted)
    expect(tookMs).toBeLessThan(GONE_WITHIN_MS)

    for (const [at, session] of sessions.entries()) {
      const { counter } = await callTool(fetch, session, 'increment_counter')
      expect(counter).toBe(1)
      const received = await readers[at]?.rest()
      const { bytes = 0, lastEventId = '', numbers = [] } = received ?? {}
      const missed = await numbersAfter(fetch, session, lastEventId)
      console.log(`${name}: let go after ${tookMs} ms; ${bytes} bytes of it had been sent`)
      expect(numbers.length).toBeLessThan(SHOUT.messages)
      expect([...numbers, ...missed]).toEqual(NUMBERS)
    }
  })
})

function portOf({ url }: { readonly url: string }): number {
  return Number(new URL(url).port)
}

/** What a client that comes back is told, up to the last message. */
async function numbersAfter(fetch: Fetch, session: string, lastEventId: string): Promise<number[]> {
  const numbers: number[] = []
  // One that has missed much is cut again: we send faster than any connection takes it.
  for (let after = lastEventId; numbers.at(-1) !== SHOUT.messages - 1;) {
    const headers = {
      accept: 'text/event-stream',
      'mcp-session-id': session,
      'last-event-id': after,
    }
    const response = await fetch(new Request(`${BASE}/mcp`, { headers }))
    for await (const { id, data } of untilCut(readEvents(response))) {
      const [, number] = /"data":"(\d+) /.exec(data) ?? []
      if (number !== undefined) numbers.push(Number(number))
      after = id
      if (numbers.at(-1) === SHOUT.messages - 1) break
    }
  }
  return numbers
}

/** What comes before the connection breaks, if it does. */
async function* untilCut<T>(items: AsyncIterable<T>): AsyncGenerator<T> {
  try {
    yield* items
  } catch {
    // The rest is for who comes back.
  }
}
