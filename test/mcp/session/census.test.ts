import * as fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { createLocalCensus } from '../../../haproxy-compat/census.ts'
import { parseConfig } from '../../../mcp/config.ts'
import type { Census } from '../../../mcp/session/census.ts'
import { systemClock } from '../../../mcp/session/clock.ts'
import { randomText, type Principal, type SessionId } from '../../../mcp/session/ids.ts'
import { LocalRouter } from '../../../mcp/session/local-router.ts'
import { tools } from '../../../mcp/tools/index.ts'
import { isAdmitted, recordOf } from '../../support/census.ts'
import { createLocalStore } from '../../support/local-app.ts'
import { initialize, toolCall } from '../../support/mcp.ts'

const TTL_MS = 60_000
const TOUCH_MS = 1000
const ALICE = 'alice' as Principal
const CALLER = { principal: ALICE, source: ALICE }

describe('the census of one process', () => {
  it('lets in whom the model lets in, whoever comes when and stays how long', () =>
    fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 60 }), limits, async (steps, most) => {
        let now = 1_000_000
        const census = createLocalCensus(optionsOf(() => now, most))
        const model = createModel(most)
        for (const { kind, source, at, ms } of steps) {
          const id = model.idAt(at)
          if (kind === 'pass') now += ms
          else if (kind === 'open') {
            const opened = model.open(source, now)
            expect(await isAdmitted(census, opened.id, source)).toBe(opened.isIn)
          } else if (id !== undefined && kind === 'use') {
            census.seen(id, recordOf(model.use(id, now)))
          } else if (id !== undefined) census.ended(id, model.end(id))
        }
      }),
      { numRuns: 500, seed: 20_261_121 },
    ))

  it("lets half a minute's worth in at once, and then one each time that one is due", async () => {
    let now = 1_000_000
    const most = { maxSessionsPerCaller: 100, sessionsPerMinute: 20 }
    const census = createLocalCensus(optionsOf(() => now, most))
    expect(await admittedOf(census, 15)).toBe(10)
    now += 2999
    expect(await admittedOf(census, 2)).toBe(0)
    now += 1
    expect(await admittedOf(census, 2)).toBe(1)
    now += 60_000
    expect(await admittedOf(census, 15)).toBe(10)
  })

  it('lets nobody in sooner who ends each session at once', async () => {
    let now = 1_000_000
    const most = { maxSessionsPerCaller: 100, sessionsPerMinute: 20 }
    const census = createLocalCensus(optionsOf(() => now, most))
    let admitted = 0
    for (let n = 0; n < 100; n++) {
      const id = String(n) as SessionId
      if (!(await isAdmitted(census, id, ALICE))) continue
      admitted++
      census.ended(id, ALICE)
      now += 10
    }
    expect(admitted).toBe(10)
  })
})

describe('the room that a session has taken', () => {
  it('is given back when it ends, and when it has expired', async () => {
    const world = createWorld(2)
    const first = await world.open()
    await world.open()
    await expect(world.open()).rejects.toMatchObject({ code: 'too_many_sessions' })
    expect(await world.router.end(first, ALICE)).toBe(true)
    await world.open()
    await expect(world.open()).rejects.toMatchObject({ code: 'too_many_sessions' })
    world.pass(TTL_MS)
    await world.open()
  })

  it('is given back when it ends after it was used', async () => {
    const world = createWorld(1)
    const id = await world.open()
    await world.call(id, 'increment_counter')
    await world.router.end(id, ALICE)
    await world.open()
  })

  it('is given back when it ends under its calls', async () => {
    const world = createWorld(1)
    const id = await world.open()
    const calls = ['increment_counter', 'watch_counter', 'add_note'].map((tool) =>
      world.call(id, tool),
    )
    await world.router.end(id, ALICE)
    await Promise.all(calls)
    await world.router.idle()
    await world.open()
  })

  it('is kept while it is in use, however long', async () => {
    const world = createWorld(1)
    const id = await world.open()
    for (let minutes = 0; minutes < 5; minutes++) {
      world.pass(TTL_MS - 5000)
      await world.call(id, 'get_counter')
    }
    await expect(world.open()).rejects.toMatchObject({ code: 'too_many_sessions' })
  })

  it('is not taken by what can not begin a session', async () => {
    const world = createWorld(1)
    const post = { ...CALLER, body: JSON.stringify(toolCall('get_counter')) }
    expect(await world.router.open(post)).toMatchObject({ kind: 'refused' })
    await world.open()
  })
})

interface Step {
  readonly kind: 'open' | 'use' | 'end' | 'pass'
  readonly source: string
  readonly at: number
  readonly ms: number
}

const step: fc.Arbitrary<Step> = fc.record({
  kind: fc.constantFrom('open', 'open', 'open', 'use', 'end', 'pass'),
  source: fc.constantFrom('alice', 'bob'),
  at: fc.nat(20),
  ms: fc.constantFrom(1, 500, 3000, 30_000, TTL_MS - 1, TTL_MS),
})
const limits = fc.record({
  maxSessionsPerCaller: fc.integer({ min: 1, max: 6 }),
  sessionsPerMinute: fc.constantFrom(1, 2, 7, 20, 600),
})

interface Most {
  readonly maxSessionsPerCaller: number
  readonly sessionsPerMinute: number
}

/** What a census promises, in the fewest words. */
function createModel({ maxSessionsPerCaller, sessionsPerMinute }: Most) {
  const sessions: { id: SessionId; source: string; expiresAt: number }[] = []
  const due = new Map<string, number>()
  const intervalMs = 60_000 / sessionsPerMinute
  const find = (id: SessionId) => sessions.find((one) => one.id === id)
  let minted = 0
  return {
    idAt: (at: number) => sessions[at % sessions.length]?.id,
    open(source: string, now: number) {
      const id = `session-${minted++}` as SessionId
      const alive = sessions.filter((one) => one.source === source && one.expiresAt > now)
      const dueAt = Math.max(now, due.get(source) ?? 0)
      const isIn =
        alive.length < maxSessionsPerCaller && dueAt - now <= Math.max(0, 30_000 - intervalMs)
      if (isIn) {
        due.set(source, dueAt + intervalMs)
        sessions.push({ id, source, expiresAt: now + TTL_MS })
      }
      return { id, isIn }
    },
    use(id: SessionId, now: number): string {
      const session = find(id)
      if (session !== undefined) session.expiresAt = now + TTL_MS
      return session?.source ?? ''
    },
    end(id: SessionId): string {
      const session = find(id)
      if (session !== undefined) session.expiresAt = 0
      return session?.source ?? ''
    },
  }
}

function optionsOf(now: () => number, limits_: Most) {
  return { ttlMs: TTL_MS, touchMs: TOUCH_MS, now, limits: limits_ }
}

async function admittedOf(census: Census, count: number): Promise<number> {
  const asked = Array.from({ length: count }, () =>
    isAdmitted(census, randomText(9) as SessionId, ALICE),
  )
  return (await Promise.all(asked)).filter(Boolean).length
}

/** A router whose callers may have so many sessions, and a clock to turn. */
function createWorld(maxSessionsPerCaller: number) {
  let passed = 0
  const clock = { ...systemClock, now: () => Date.now() + passed }
  const config = parseConfig({
    MAX_SESSIONS_PER_CALLER: String(maxSessionsPerCaller),
    SESSION_TTL_SECONDS: String(TTL_MS / 1000),
    QUICK_REPLY_MS: '5',
  })
  const router = new LocalRouter({
    ids: { mint: () => randomText(33) as SessionId, isMinted: () => true },
    maxLive: 1000,
    liveIdleMs: TTL_MS,
    pack: tools,
    store: createLocalStore({ clock, env: { SESSION_TTL_SECONDS: String(TTL_MS / 1000) } }),
    census: createLocalCensus(optionsOf(() => clock.now(), config.limits)),
    instance: 'one',
    clock,
    log: () => undefined,
    status: { startedAt: 0, countSessions: () => Promise.resolve(0) },
    limits: config.runtime,
  })
  return {
    router,
    pass: (ms: number) => void (passed += ms),
    async open(): Promise<SessionId> {
      const opened = await router.open({ ...CALLER, body: JSON.stringify(initialize) })
      if (opened.kind !== 'opened') throw new Error(`Not opened: ${opened.kind}`)
      return opened.id
    },
    call(id: SessionId, tool: string) {
      const args = tool === 'add_note' ? { note: 'x' } : {}
      const input = tool === 'watch_counter' ? { duration_seconds: 1 } : args
      return router.deliver(id, { ...CALLER, body: JSON.stringify(toolCall(tool, input)) })
    },
  }
}
