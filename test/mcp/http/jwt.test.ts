import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { parseConfig } from '../../../mcp/config.ts'
import { bearer, type AuthConfig } from '../../../mcp/http/auth.ts'
import { createJwtVerifier } from '../../../mcp/http/jwt.ts'
import { systemClock, type Clock } from '../../../mcp/session/clock.ts'
import { bearing } from '../../hostile/auth-callers.ts'
import {
  createKey,
  secondsFromNow,
  startIssuer,
  type Issuer,
  type Manner,
} from '../../hostile/issuer.ts'
import { createLocalApp, createLocalStore } from '../../support/local-app.ts'
import { callTool, openSession, send, toolCall, until } from '../../support/mcp.ts'

const MINUTE_MS = 60_000
const YEAR = 365 * 24 * 60 * 60

let issuer: Issuer

beforeEach(async () => {
  issuer = await startIssuer()
})
afterEach(async () => {
  vi.useRealTimers()
  issuer.behave('well')
  await issuer.stop()
})

function configOf({ settings }: Issuer): AuthConfig & { jwt: object } {
  const { auth } = parseConfig(settings)
  if (auth?.jwt === undefined) throw new Error('Nothing is set up')
  return { ...auth, jwt: auth.jwt }
}

function verifierOf(of: Issuer, clock: Clock = systemClock) {
  const { jwt } = configOf(of) as Required<AuthConfig>
  return createJwtVerifier(jwt, clock)
}

/** Says what becomes of each of `count` tokens with unknown keys, all at once. */
async function flood(verify: (token: string) => Promise<unknown>, count: number) {
  const token = await issuer.sign({ header: { kid: 'unknown' } })
  const all = Array.from({ length: count }, () => verify(token).then(() => 'in', codeOf))
  return new Set(await Promise.all(all))
}

function codeOf(error: { code: string }): string {
  return error.code
}

describe('a token', () => {
  it('says who somebody is, for how long, and what they may', async () => {
    const exp = secondsFromNow(60)
    const token = await issuer.sign({ claims: { exp, scope: 'mcp read' } })
    expect(await verifierOf(issuer)(token)).toEqual({
      issuer: issuer.url,
      subject: 'alice',
      scopes: ['mcp', 'read'],
      expiresAt: exp + 30,
    })
  })

  it.each([
    ['a text', { scp: 'mcp read' }],
    ['a list', { scp: ['mcp', 'read'] }],
    ['both', { scope: 'other', scp: ['mcp', 'read'] }],
  ])('has scopes as %s', async (_what, claims) => {
    const token = await issuer.sign({ claims: { scope: undefined, ...claims } })
    expect(await verifierOf(issuer)(token)).toMatchObject({ scopes: ['mcp', 'read'] })
  })

  it.each([[5], [null], [['alice']], [{}]])('is no good if its subject is %j', async (sub) => {
    const token = await issuer.sign({ claims: { sub: sub as unknown as string } })
    await expect(verifierOf(issuer)(token)).rejects.toMatchObject({ code: 'invalid_token' })
  })
})

describe('the keys of an issuer', () => {
  it('are asked for once, however many tokens come', async () => {
    const verify = verifierOf(issuer)
    const tokens = await Promise.all(Array.from({ length: 50 }, () => issuer.sign()))
    await Promise.all(tokens.map(verify))
    for (const token of tokens) await verify(token)
    expect(issuer.asked()).toEqual({ keys: 1, others: 0 })
  })

  it.each<Manner>(['failing', 'malformed', 'not keys', 'redirecting', 'huge', 'slow'])(
    'can’t be had from an issuer that is %s',
    async (manner) => {
      issuer.behave(manner)
      const refused = verifierOf(issuer)(await issuer.sign())
      await expect(refused).rejects.toMatchObject({ code: 'auth_unavailable' })
      expect(issuer.asked()).toEqual({ keys: 1, others: 0 })
    },
  )

  it('are known as soon as there is a token by a new one', async () => {
    const verify = verifierOf(issuer)
    await verify(await issuer.sign())
    for (let rotation = 0; rotation < 2; rotation++) {
      const key = await createKey('ES256')
      issuer.publish(key)
      const tokens = await Promise.all(Array.from({ length: 20 }, () => issuer.sign({ key })))
      await Promise.all(tokens.map(verify))
    }
    expect(issuer.asked().keys).toBe(3)
  })

  it('are asked for once a second while tokens name others', async () => {
    const verify = verifierOf(issuer)
    const began = performance.now()
    expect(await flood(verify, 300)).toEqual(new Set(['invalid_token']))
    expect(await flood(verify, 300)).toEqual(new Set(['invalid_token']))
    const seconds = (performance.now() - began) / 1000
    expect(issuer.asked().keys).toBeLessThanOrEqual(Math.ceil(seconds) + 1)
  })

  it.each(['well', 'never'])(
    'are asked for once a second while they can’t be had, having been %s known',
    async (before) => {
      const verify = verifierOf(issuer)
      if (before === 'well') await verify(await issuer.sign())
      const known = issuer.asked().keys
      issuer.behave('failing')
      const began = performance.now()
      for (let round = 0; round < 30; round++) await flood(verify, 5)
      const seconds = (performance.now() - began) / 1000
      expect(issuer.asked().keys - known).toBeLessThanOrEqual(Math.ceil(seconds) + 1)
    },
  )

  it('are asked for again when a while has passed, and nobody waits for it', async () => {
    let passedMs = 0
    const verify = verifierOf(issuer, { ...systemClock, now: () => Date.now() + passedMs })
    const token = await issuer.sign()
    await verify(token)
    issuer.withdraw(issuer.key())
    passedMs = 9 * MINUTE_MS
    await verify(token)
    expect(issuer.asked().keys).toBe(1)
    issuer.behave('slow')
    passedMs = 11 * MINUTE_MS
    await verify(token)
    await untilAsked(2)
    // Who is that slow is not asked a second time meanwhile.
    await Promise.all([verify(token), verify(token)])
    issuer.behave('well')
    const refused = await until(
      () => verify(token).then(() => 'in', codeOf),
      (end) => end !== 'in',
    )
    expect(refused).toBe('invalid_token')
  })

  it('are good for an hour while they can’t be had again', async () => {
    const verify = verifierOf(issuer)
    const token = await issuer.sign({ claims: { exp: secondsFromNow(YEAR) } })
    await verify(token)
    await issuer.stop()
    const began = Date.now()
    vi.useFakeTimers({ toFake: ['Date'], now: began + 59 * MINUTE_MS })
    expect(await verify(token)).toMatchObject({ subject: 'alice' })
    vi.setSystemTime(began + 61 * MINUTE_MS)
    await expect(verify(token)).rejects.toMatchObject({ code: 'auth_unavailable' })
    await issuer.start()
    vi.setSystemTime(began + 62 * MINUTE_MS)
    expect(await verify(token)).toMatchObject({ subject: 'alice' })
  })

  async function untilAsked(times: number): Promise<void> {
    await until(
      async () => issuer.asked().keys,
      (keys) => keys >= times,
    )
  }
})

describe('a session', () => {
  it('is nobody’s whom another issuer calls by its owner’s name', async () => {
    const other = await startIssuer()
    const store = createLocalStore({})
    const [mine, theirs] = [issuer, other].map((of) =>
      createLocalApp({ store, authenticate: bearer(configOf(of), systemClock) }),
    )
    const owner = bearing(mine?.fetch ?? fetch, await issuer.sign())
    const namesake = bearing(theirs?.fetch ?? fetch, await other.sign())
    const session = await openSession(owner)
    expect((await send(namesake, session, toolCall('increment_counter'))).status).toBe(404)
    expect(await callTool(owner, session, 'get_counter')).toMatchObject({ counter: 0 })
    await other.stop()
  })
})
