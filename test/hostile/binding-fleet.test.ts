/** What somebody else's requests leave behind: nothing in the store, in memory, or on the clock. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { RedisClientType } from '@redis/client'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { fetchFrom, startFleet, type Fleet } from '../support/fleet.ts'
import { callTool, openSession, send, toolCall, until, type Fetch } from '../support/mcp.ts'
import { percentile } from '../support/percentile.ts'
import { clientOf } from '../support/redis.ts'
import { bearing, hashed } from './auth-callers.ts'
import { wholeAnswer } from './binding-answers.ts'
import { createParty, type Party, type Target } from './binding-parties.ts'
import { OPERATIONS } from './binding-requests.ts'

const TOKENS = { ann: 'token-of-ann', ben: 'token-of-ben' }
// Its calls wait for answers that don't come.
const QUICK_STOP = { STOP_SECONDS: '0' }
// Less than a session has when it is used, and more than any of this takes.
const LEFT_MS = 600_000

let fleet: Fleet
let redis: RedisClientType
let ann: Party
let ben: Party

beforeAll(async () => {
  const tokens = Object.entries(TOKENS).map(([name, token]) => hashed(name, token))
  fleet = await startFleet({ AUTH_TOKENS: tokens.join(), ...QUICK_STOP })
  redis = await clientOf(fleet.map().redis.url)
  ;[ann, ben] = await Promise.all([
    createParty('ann', bearing(fleet.fetch, TOKENS.ann)),
    createParty('ben', bearing(fleet.fetch, TOKENS.ben)),
  ])
})
afterAll(async () => {
  redis?.destroy()
  await fleet?.stop()
})

describe('a session of somebody else', () => {
  it('does not live longer, whatever is asked of it', async () => {
    const { session } = ann.live
    const keys = await redis.keys(`mcp:{${session}}:*`)
    expect(keys.length).toBeGreaterThan(0)
    for (const key of keys) await redis.pExpire(key, LEFT_MS)
    await tryAll(ann.live)
    for (const key of keys) expect(await redis.pTTL(key)).toBeLessThanOrEqual(LEFT_MS)
    await callTool(ann.fetch, session, 'get_counter')
    for (const key of keys) expect(await redis.pTTL(key)).toBeGreaterThan(LEFT_MS)
  })

  it('is not restored where it is not held, and not held there then', async () => {
    const session = await openSession(ann.fetch)
    await tryAll({ ...ann.live, session })
    expect(restored(session)).toBe(0)
    const { instance: holder } = await callTool(ann.fetch, session, 'get_counter')
    const others = instances(TOKENS.ann).filter((_, at) => `mcp-server-${at + 1}` !== holder)
    for (const [at, fetch] of others.entries()) {
      await callTool(fetch, session, 'get_counter')
      await until(
        async () => restored(session),
        (times) => times === at + 1,
      )
    }
  })

  it('takes as long to be refused as one that is over', async () => {
    const [holder] = instances(TOKENS.ben)
    const held = await openSession(instances(TOKENS.ann)[0] ?? fetch)
    const ended = ann.ended.session
    const call = async (session: string): Promise<number> => {
      const began = performance.now()
      const response = await send(holder ?? fetch, session, toolCall('increment_counter'))
      await response.text()
      return performance.now() - began
    }
    for (const foreign of [held, ann.live.session]) {
      expect(await differenceOf(call, { foreign, ended })).toBeLessThan(1)
    }
  })
})

/** All that `ben` can do, at each instance. */
async function tryAll(target: Target): Promise<void> {
  for (const { request } of OPERATIONS) {
    const answers = instances(TOKENS.ben).map((fetch) => fetch(request(target, ben)))
    for (const answer of answers) await wholeAnswer(await answer, [])
  }
}

/** Each instance by itself, with nothing in front that knows where sessions are. */
function instances(token: string): Fetch[] {
  return fleet.map().instances.map(({ url }) => bearing(fetchFrom(`${url}/mcp`), token))
}

/** How often any of the instances has restored it. */
function restored(session: string): number {
  const files = readdirSync(fleet.folder).filter((file) => file.endsWith('.log'))
  const lines = files.flatMap((file) => readFileSync(join(fleet.folder, file), 'utf8').split('\n'))
  const told = lines.filter((line) => line.includes('"session_restored"'))
  return told.filter((line) => line.includes(`"${session.slice(0, 8)}"`)).length
}

const TIMES = 200
const TRIES = 3

/**
 * How far the medians are apart, as a share of how far the middle half of those for
 * an ended one is. The best of some tries, for the machine has other things to do as well.
 */
async function differenceOf(
  call: (session: string) => Promise<number>,
  { foreign, ended }: { foreign: string; ended: string },
): Promise<number> {
  const shares: number[] = []
  for (let tries = 0; tries < TRIES && !shares.some((share) => share < 1); tries++) {
    const [theirs, none]: [number[], number[]] = [[], []]
    for (let time = 0; time < TIMES; time++) {
      theirs.push(await call(foreign))
      none.push(await call(ended))
    }
    const spread = percentile(none, 75) - percentile(none, 25)
    shares.push(Math.abs(percentile(theirs, 50) - percentile(none, 50)) / spread)
  }
  return Math.min(...shares)
}
