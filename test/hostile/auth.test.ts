/** Who says who they are by a token of an issuer's, and who only says so: on every topology. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { callTool } from '../support/mcp.ts'
import { bearing } from './auth-callers.ts'
import { keysAreUnknown, keysChange, untilKnown } from './auth-keys.ts'
import { BAD_TOKENS, GOOD_TOKENS, NO_TOKENS, SHORT_TOKENS, type TokenRow } from './auth-rows.ts'
import { createWorld, STATIC_TOKEN, stateOf, type World } from './auth-world.ts'
import { toSession } from './inputs.ts'
import { SCOPE } from './issuer.ts'
import { bytesOf, exchange, type RawAnswer } from './raw.ts'
import { TOPOLOGIES, type TopologyName } from './topologies.ts'

const METADATA = 'https://mcp.example/.well-known/oauth-protected-resource/mcp'

describe.each(TOPOLOGIES)('tokens of an issuer: %s', (name) => {
  const world = {} as World

  beforeAll(async () => void Object.assign(world, await createWorld(name)))
  afterAll(() => world.stop())

  describe('before any keys are known', () => {
    keysAreUnknown(world)
  })
  describe('a session', () => {
    isItsOwners(world, name)
  })
  describe('once keys are known', () => {
    keysChange(world, name)
  })

  it('says without a token where one can be had, at the address that it names', async () => {
    const { server, issuer } = world
    const answer = await exchange(server.port, bytesOf(toSession('x', {})))
    const [, url = ''] = /resource_metadata="([^"]+)"/.exec(challengeOf(answer)) ?? []
    const response = await server.fetch(new Request(new URL(new URL(url).pathname, 'http://x')))
    expect(response.status).toBe(200)
    expect(response.headers.get('access-control-allow-origin')).toBe('*')
    expect(await response.json()).toEqual({
      resource: issuer.settings['PUBLIC_URL'],
      authorization_servers: [issuer.url],
      bearer_methods_supported: ['header'],
      scopes_supported: [SCOPE],
    })
  })

  it('has logged no token and no subject', () => {
    const logs = world.server.logged() ?? ''
    expect(['eyJ', 'alice', STATIC_TOKEN].filter((secret) => logs.includes(secret))).toEqual([])
  })
})

function isItsOwners(world: World, name: TopologyName): void {
  beforeAll(async () => {
    await world.issuer.start()
    world.issuer.behave('well')
    await untilKnown(world)
    await callTool(await world.owner(), await world.session(), 'increment_counter')
  })

  it.each(GOOD_TOKENS)('is its owner’s with $what', async ({ token }) => {
    const fetch = bearing(world.server.fetch, await token(world))
    expect(await callTool(fetch, await world.session(), 'get_counter')).toHaveProperty('counter')
  })

  it.each([...NO_TOKENS, ...BAD_TOKENS])('is nobody’s with $what', async (row) => {
    const wanted = row.on?.[name] ?? 401
    const answer = await attack(world, row)
    expect(answer.status).toBe(wanted)
    if (wanted === 401) expectChallenge(answer, 'invalid_token')
  })

  it.each(SHORT_TOKENS)('is forbidden with $what', async (row) => {
    const answer = await attack(world, row)
    expect(answer.status).toBe(403)
    expectChallenge(answer, 'insufficient_scope')
  })

  it.each(['GET', 'DELETE', 'OPTIONS', 'PUT'])('is not even asked for by %s', async (method) => {
    const session = await world.session()
    const headers = { host: 'localhost', accept: 'text/event-stream', 'mcp-session-id': session }
    const bytes = bytesOf({ method, headers })
    const answer = await untouched(world, () => exchange(world.server.port, bytes))
    expect(answer.status).toBe(401)
    expectChallenge(answer, 'invalid_token')
  })

  it('has had no key fetched from where a token says', () => {
    expect(world.other.asked()).toEqual({ keys: 0, others: 0 })
  })
}

/** An increment of the session's counter. */
async function attack(world: World, { headers, target }: TokenRow): Promise<RawAnswer> {
  const request = toSession(await world.session(), { headers: await headers(world) })
  const where = target && { target: await target(world) }
  const bytes = bytesOf({ ...request, ...where })
  return untouched(world, () => exchange(world.server.port, bytes))
}

async function untouched(world: World, act: () => Promise<RawAnswer>): Promise<RawAnswer> {
  const before = await stateOf(world)
  const answer = await act()
  expect(await stateOf(world)).toEqual(before)
  return answer
}

function challengeOf({ headers }: RawAnswer): string {
  return headers.get('www-authenticate') ?? ''
}

function expectChallenge(answer: RawAnswer, error: string): void {
  expect(challengeOf(answer)).toMatch(/^Bearer /)
  expect(challengeOf(answer)).toContain(`error="${error}"`)
  expect(challengeOf(answer)).toContain(`resource_metadata="${METADATA}"`)
  expect(answer.headers.get('cache-control')).toBe('no-store')
}
