import { expect, it } from 'vitest'
import { callTool, send, toolCall, until } from '../support/mcp.ts'
import { bearing } from './auth-callers.ts'
import { STATIC_TOKEN, type World } from './auth-world.ts'
import { createKey, type Manner } from './issuer.ts'
import type { TopologyName } from './topologies.ts'

const INSTANCES = { node: 1, fleet: 3, edge: 1 }
const MANNERS: Manner[] = ['failing', 'redirecting', 'huge', 'slow']
const ROTATIONS = 3
const CALLS_A_KEY = 60

/** While nobody knows the issuer's keys. At the end all is well. */
export function keysAreUnknown(world: World): void {
  it('refuses for now while the issuer is down, and serves who needs no keys', async () => {
    await expectUnavailable(world)
    expect((await world.knock(STATIC_TOKEN)).status).toBe(200)
  })

  it.each(MANNERS)('refuses for now while the issuer is %s', async (manner) => {
    const { issuer } = world
    await issuer.start()
    issuer.behave(manner)
    const before = issuer.asked().keys
    // It is not asked all the time.
    while (issuer.asked().keys === before) await expectUnavailable(world)
    expect(issuer.asked()).toMatchObject({ others: 0 })
  })

  it('serves soon after the issuer is well', async () => {
    world.issuer.behave('well')
    await untilKnown(world)
  })
}

/** By all instances: each reads the keys by itself. */
export async function untilKnown(world: World): Promise<void> {
  await until(
    () => knockAtOnce(world),
    (statuses) => statuses.every((status) => status === 200),
  )
}

async function knockAtOnce({ issuer, knock }: World): Promise<number[]> {
  const once = async (): Promise<number> => (await knock(await issuer.sign())).status
  return Promise.all(Array.from({ length: 24 }, once))
}

async function expectUnavailable({ issuer, knock }: World): Promise<void> {
  const response = await knock(await issuer.sign())
  expect(response.status).toBe(503)
  expect(response.headers.get('retry-after')).toBe('1')
}

/** While all is well, to begin with. */
export function keysChange(world: World, name: TopologyName): void {
  it('goes on with the keys that it knows while the issuer is down', async () => {
    const { issuer } = world
    await untilKnown(world)
    await issuer.stop()
    const statuses = await knockAtOnce(world)
    await issuer.start()
    expect(new Set(statuses)).toEqual(new Set([200]))
  })

  it('fails no call when the issuer changes its keys', async () => {
    const { issuer } = world
    const calls = callInTurn(world)
    for (let rotation = 0; rotation < ROTATIONS; rotation++) {
      const [before, next] = [issuer.key(), await createKey('ES256')]
      issuer.publish(next)
      issuer.use(next)
      await until(
        async () => calls.failed.length + (calls.answered.get(next.kid) ?? 0),
        (count) => count >= CALLS_A_KEY,
      )
      issuer.withdraw(before)
    }
    await calls.end()
    expect(calls.failed).toEqual([])
  })

  it('does not ask for keys each time that somebody names an unknown one', async () => {
    const { issuer, other, owner, knock } = world
    const [fetch, session] = [await owner(), await world.session()]
    const before = issuer.asked().keys
    const began = performance.now()
    const knockUnknown = async (): Promise<number> => {
      const header = { kid: crypto.randomUUID() }
      return (await knock(await issuer.sign({ key: other.key(), header }))).status
    }
    const statuses: number[] = []
    for (let round = 0; round < 3; round++) {
      const flood = Promise.all(Array.from({ length: 30 }, knockUnknown))
      await callTool(fetch, session, 'get_counter')
      statuses.push(...(await flood))
    }
    const seconds = (performance.now() - began) / 1000
    expect(new Set(statuses)).toEqual(new Set([401]))
    const asked = issuer.asked().keys - before
    expect(asked).toBeLessThanOrEqual(Math.ceil(seconds + 1) * INSTANCES[name])
  })
}

/** Calls a tool from several callers until the end; answers what was not answered as it should be. */
function callInTurn({ issuer, server, session }: World) {
  const answered = new Map<string, number>()
  const failed: string[] = []
  const calls = { over: false }
  const call = async (): Promise<void> => {
    const id = await session()
    while (!calls.over) {
      const { kid } = issuer.key()
      const fetch = bearing(server.fetch, await issuer.sign())
      const sent = send(fetch, id, toolCall('get_counter'))
      const response = await sent.catch((error) => new Response(String(error), { status: 599 }))
      const text = await response.text()
      if (response.status !== 200) failed.push(`${response.status} ${text}`)
      answered.set(kid, (answered.get(kid) ?? 0) + 1)
    }
  }
  const callers = Promise.all(Array.from({ length: 6 }, call))
  return {
    answered,
    failed,
    async end(): Promise<void> {
      calls.over = true
      await callers
    },
  }
}
