import type { RedisClientType } from '@redis/client'
import * as fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { createLocalCensus, createRedisCensus } from '../../haproxy-compat/census.ts'
import type { Census } from '../../mcp/session/census.ts'
import type { SessionId } from '../../mcp/session/ids.ts'
import { START } from '../hostile/topologies.ts'
import {
  callTool,
  endSession,
  initialize,
  openSession,
  post,
  until,
  type Fetch,
} from '../support/mcp.ts'
import { isAdmitted, recordOf } from '../support/census.ts'
import { askTool, openHandle } from '../support/stateless.ts'
import { clientOf, startRedis, type RedisServer } from '../support/redis.ts'

const TTL_MS = 600_000
const INSTANCES = 3

describe('the census of several instances over one Redis', () => {
  let server: RedisServer
  let clients: RedisClientType[]
  beforeAll(async () => {
    server = await startRedis()
    clients = await Promise.all(Array.from({ length: INSTANCES }, () => clientOf(server.url)))
  })
  afterAll(async () => {
    for (const client of clients) client.destroy()
    await server.stop()
  })

  it('lets in whom that of one process lets in, whichever instance is asked', () =>
    fc.assert(
      fc.asyncProperty(
        fc.array(step, { maxLength: 40 }),
        fc.integer({ min: 1, max: 6 }),
        async (steps, most) => {
          const run = crypto.randomUUID()
          const options = optionsOf({ maxSessionsPerCaller: most })
          const fleet = clients.map((client) => createRedisCensus(client, options))
          const alone = createLocalCensus(options)
          const sessions: { id: SessionId; source: string }[] = []
          for (const { kind, by, at, instance } of steps) {
            const census = fleet[instance] ?? alone
            const one = sessions[at % sessions.length]
            if (kind === 'open') {
              const [id, source] = [`${run}-${sessions.length}` as SessionId, `${run}-${by}`]
              const isIn = await isAdmitted(census, id, source)
              expect(isIn).toBe(await isAdmitted(alone, id, source))
              if (isIn) sessions.push({ id, source })
            } else if (one !== undefined && kind === 'use') {
              for (const each of [census, alone]) each.seen(one.id, recordOf(one.source))
            } else if (one !== undefined) {
              for (const each of [census, alone]) each.ended(one.id, one.source)
              sessions.splice(sessions.indexOf(one), 1)
            }
            // What is not waited for has reached Redis by then.
            await clients[instance]?.ping()
          }
        },
      ),
      { numRuns: 100, seed: 20_261_121 },
    ))

  it.each([1, 7, 50])('lets in just %i of twice as many that come to all at once', async (most) => {
    const options = optionsOf({ maxSessionsPerCaller: most })
    const fleet = clients.map((client) => createRedisCensus(client, options))
    expect(await admittedBy(fleet, 2 * most)).toBe(most)
  })

  it.each([2, 4, 60])(
    'lets in half of %i a minute at once, however many come to all',
    async (perMinute) => {
      const options = optionsOf({ sessionsPerMinute: perMinute })
      const fleet = clients.map((client) => createRedisCensus(client, options))
      expect(await admittedBy(fleet, perMinute + 3)).toBe(perMinute / 2)
    },
  )

  it('lets the next one in when it is due, also if all before have ended', async () => {
    const options = optionsOf({ sessionsPerMinute: 20 })
    const fleet = clients.map((client) => createRedisCensus(client, options))
    const source = crypto.randomUUID()
    const open = async (): Promise<boolean> => {
      const id = crypto.randomUUID() as SessionId
      const isIn = await isAdmitted(censusAt(fleet, 0), id, source)
      if (isIn) censusAt(fleet, 0).ended(id, source)
      return isIn
    }
    for (let n = 0; n < 10; n++) expect(await open()).toBe(true)
    expect(await open()).toBe(false)
    await until(open, Boolean)
  })

  it('forgets who has not come back in time', async () => {
    const options = { ...optionsOf({ maxSessionsPerCaller: 1 }), ttlMs: 1500, touchMs: 10 }
    const census = createRedisCensus(censusClient(clients), options)
    const source = crypto.randomUUID()
    expect(await isAdmitted(census, 'first' as SessionId, source)).toBe(true)
    expect(await isAdmitted(census, 'second' as SessionId, source)).toBe(false)
    await until(() => isAdmitted(census, 'third' as SessionId, source), Boolean)
    expect(await census.count()).toBe(0)
  })
})

const MOST = 5
const FLOOD = 20

describe.each(['node', 'fleet', 'edge'] as const)(
  'a caller who opens too many sessions: %s',
  (name) => {
    it('is told so, and has none more, until one of them ends', async () => {
      const topology = await START[name]({ MAX_SESSIONS_PER_CALLER: String(MOST) })
      onTestFinished(async () => void (await topology.stop()))
      const { fetch, kept } = topology
      const answers = await Promise.all(Array.from({ length: FLOOD }, () => opening(fetch)))
      const ids = answers.flatMap(({ id }) => id ?? [])
      expect(ids.length).toBe(MOST)
      const refused = answers.filter(({ id }) => id === null)
      expect(refused.map(({ outcome }) => outcome)).toEqual(
        Array.from({ length: FLOOD - MOST }, () => '429 too_many_sessions 1'),
      )
      const before = await kept()
      expect(
        (await Promise.all(Array.from({ length: FLOOD }, () => opening(fetch)))).flatMap(
          ({ id }) => id ?? [],
        ),
      ).toEqual([])
      // By handle likewise.
      expect((await fetch(askTool('open_session'))).status).toBe(429)
      expect(await kept()).toEqual(before)
      if (name === 'edge') expect(before.filter(isObject).length).toBe(MOST)

      const [first = '', second = '', third = ''] = ids
      await callTool(fetch, first, 'increment_counter')
      for (const id of [first, second]) await endSession(fetch, id)
      const handle = await until(
        () => openHandle(fetch).catch(() => ''),
        (text) => text !== '',
      )
      const session = await until(
        () => openSession(fetch).catch(() => ''),
        (text) => text !== '',
      )
      expect((await opening(fetch)).outcome).toBe('429 too_many_sessions 1')
      expect(await callTool(fetch, third, 'increment_counter')).toMatchObject({ counter: 1 })
      expect(handle).not.toBe(session)
    })
  },
)

/** By its file: there is one more for all of them. */
function isObject(file: string): boolean {
  return /[0-9a-f]{64}\.sqlite$/.test(file)
}

interface Opening {
  readonly id: string | null
  readonly outcome: string
}

async function opening(fetch: Fetch): Promise<Opening> {
  const response = await fetch(post(JSON.stringify(initialize)))
  const { error } = (await response.json()) as { error?: { data?: { type?: string } } }
  const retryAfter = response.headers.get('retry-after')
  const outcome = `${response.status} ${error?.data?.type} ${retryAfter}`
  return { id: response.headers.get('mcp-session-id'), outcome }
}

interface Step {
  readonly kind: 'open' | 'use' | 'end'
  readonly by: string
  readonly at: number
  readonly instance: number
}

const step: fc.Arbitrary<Step> = fc.record({
  kind: fc.constantFrom('open', 'open', 'use', 'end'),
  by: fc.constantFrom('alice', 'bob'),
  at: fc.nat(20),
  instance: fc.nat(INSTANCES - 1),
})

function optionsOf(limits: { maxSessionsPerCaller?: number; sessionsPerMinute?: number }) {
  return {
    ttlMs: TTL_MS,
    touchMs: 60_000,
    now: Date.now,
    limits: { maxSessionsPerCaller: 1_000_000, sessionsPerMinute: 10_000_000, ...limits },
  }
}

async function admittedBy(fleet: readonly Census[], count: number): Promise<number> {
  const source = crypto.randomUUID()
  const asked = Array.from({ length: count }, (_, n) =>
    isAdmitted(censusAt(fleet, n), crypto.randomUUID() as SessionId, source),
  )
  return (await Promise.all(asked)).filter(Boolean).length
}

function censusAt(fleet: readonly Census[], n: number): Census {
  const census = fleet[n % fleet.length]
  if (census === undefined) throw new Error('No instance')
  return census
}

function censusClient([client]: readonly RedisClientType[]): RedisClientType {
  if (client === undefined) throw new Error('No Redis')
  return client
}
