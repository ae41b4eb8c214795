import { describe, expect, it } from 'vitest'
import { parseConfig } from '../../../mcp/config.ts'
import {
  anonymousHere,
  bearer,
  resourceMetadata,
  type AuthConfig,
  type Authenticate,
} from '../../../mcp/http/auth.ts'
import { systemClock, type Clock } from '../../../mcp/session/clock.ts'
import { bearing, hashed } from '../../hostile/auth-callers.ts'
import { createLocalApp, createLocalStore, type LocalApp } from '../../support/local-app.ts'
import { callTool, initialize, openSession, post, send, toolCall } from '../../support/mcp.ts'

const [ANN, BEN] = ['token-of-ann', 'token-of-ben']
const BOTH = [hashed('ann', ANN), hashed('ben', BEN)].join()

function configOf(settings: Record<string, string>): AuthConfig {
  const { auth } = parseConfig(settings)
  if (auth === undefined) throw new Error('Nothing is set up')
  return auth
}

const byTokens = (settings: Record<string, string>): Authenticate =>
  bearer(configOf(settings), systemClock)

/** The status that `authorization` brings, and what is told about it. */
async function answerTo(authorization: string | undefined, settings: Record<string, string>) {
  const { fetch } = createLocalApp({ authenticate: byTokens(settings) })
  const headers = authorization === undefined ? {} : { authorization }
  const response = await fetch(post(JSON.stringify(initialize), headers))
  const text = await response.text()
  return { status: response.status, challenge: response.headers.get('www-authenticate'), text }
}

describe('a static token', () => {
  it.each([`Bearer ${ANN}`, `bearer ${ANN}`, `BEARER ${ANN}`, `Bearer ${BEN}`])(
    'lets its caller in: %s',
    async (authorization) => {
      expect((await answerTo(authorization, { AUTH_TOKENS: BOTH })).status).toBe(200)
    },
  )

  it.each([
    ['nothing', undefined],
    ['Bearer alone', 'Bearer'],
    ['its name', 'Bearer ann'],
    ['its hash', `Bearer ${hashed('', ANN).slice(1)}`],
    ['its setting', `Bearer ${hashed('ann', ANN)}`],
    ['part of it', `Bearer ${ANN.slice(0, -1)}`],
    ['more than it', `Bearer ${ANN}x`],
    ['other letters', `Bearer ${ANN.toUpperCase()}`],
    ['another scheme', `Token ${ANN}`],
    ['no scheme', ANN],
    ['two at once', `Bearer ${ANN}, Bearer ${BEN}`],
  ])('is not %s', async (_what, authorization) => {
    const { status, challenge, text } = await answerTo(authorization, { AUTH_TOKENS: BOTH })
    expect(status).toBe(401)
    expect(challenge).toMatch(/^Bearer error="invalid_token"/)
    // Nobody says where one can be had.
    expect(challenge).not.toContain('resource_metadata')
    expect(JSON.parse(text)).toMatchObject({ error: 'invalid_token' })
  })

  it.each([
    ['mcp', 200],
    ['other mcp more', 200],
    ['other', 403],
    ['mcp2', 403],
    [undefined, 403],
  ])('has the scopes that it is given: %s', async (scopes, wanted) => {
    const settings = { AUTH_TOKENS: hashed('ann', ANN, scopes), REQUIRED_SCOPE: 'mcp' }
    const { status, challenge } = await answerTo(`Bearer ${ANN}`, settings)
    expect(status).toBe(wanted)
    if (wanted === 403) expect(challenge).toMatch(/error="insufficient_scope".* scope="mcp"/)
  })

  it('is asked for by nobody who issues some', () => {
    expect(resourceMetadata(configOf({ AUTH_TOKENS: BOTH }))).toBeUndefined()
  })
})

describe('a session', () => {
  /** Servers with these tokens, over one store. */
  function createFleet(...tokens: string[]): LocalApp[] {
    const store = createLocalStore({})
    return tokens.map((AUTH_TOKENS) =>
      createLocalApp({ store, authenticate: byTokens({ AUTH_TOKENS }) }),
    )
  }

  it('goes on under another token of the same name, and no other', async () => {
    const [before, between, after] = createFleet(
      hashed('ann', ANN),
      [hashed('ann', ANN), hashed('ann', 'next'), BOTH.split(',')[1]].join(),
      hashed('ann', 'next'),
    ) as [LocalApp, LocalApp, LocalApp]
    const session = await openSession(bearing(before.fetch, ANN))
    const counters = []
    for (const fetch of [
      bearing(before.fetch, ANN),
      bearing(between.fetch, ANN),
      bearing(between.fetch, 'next'),
      bearing(after.fetch, 'next'),
    ]) {
      counters.push((await callTool(fetch, session, 'increment_counter'))['counter'])
    }
    expect(counters).toEqual([1, 2, 3, 4])
    const call = toolCall('increment_counter')
    expect((await send(bearing(between.fetch, BEN), session, call)).status).toBe(404)
    expect((await send(bearing(after.fetch, ANN), session, call)).status).toBe(401)
  })

  it('is neither prolonged nor restored by who may not use it', async () => {
    let passedMs = 0
    const clock: Clock = { ...systemClock, now: () => Date.now() + passedMs }
    const env = { SESSION_TTL_SECONDS: '60' }
    const store = createLocalStore({ clock, env })
    const options = { clock, env, store, authenticate: byTokens({ AUTH_TOKENS: BOTH }) }
    const [holder, other] = [createLocalApp(options), createLocalApp(options)]
    const [mine, kept] = [await openAs(holder, ANN), await openAs(holder, ANN)]
    passedMs = 50_000
    await callTool(bearing(holder.fetch, ANN), kept, 'increment_counter')
    for (const { fetch } of [holder, other]) await attack(fetch, mine)
    expect(restored(other)).toEqual([])
    passedMs = 61_000
    const call = toolCall('get_counter')
    for (const { fetch } of [holder, other]) {
      expect((await send(bearing(fetch, ANN), mine, call)).status).toBe(404)
      expect((await send(bearing(fetch, ANN), kept, call)).status).toBe(200)
    }
  })

  it('takes no place in the memory of who was asked for it in vain', async () => {
    const store = createLocalStore({})
    const options = { store, authenticate: byTokens({ AUTH_TOKENS: BOTH }), maxLive: 1 }
    const [holder, other] = [createLocalApp(options), createLocalApp(options)]
    const foreign = await openAs(holder, ANN)
    const own = await openAs(other, BEN)
    for (let round = 0; round < 3; round++) {
      await attack(other.fetch, foreign)
      await callTool(bearing(other.fetch, BEN), own, 'increment_counter')
    }
    // There is room for one.
    expect(restored(other)).toEqual([])
    expect(await callTool(bearing(holder.fetch, ANN), foreign, 'get_counter')).toMatchObject({
      counter: 0,
    })
  })

  function openAs({ fetch }: LocalApp, token: string): Promise<string> {
    return openSession(bearing(fetch, token))
  }

  async function attack(fetch: LocalApp['fetch'], session: string): Promise<void> {
    const as = bearing(fetch, BEN)
    const headers = { 'mcp-session-id': session, accept: 'text/event-stream' }
    const url = 'http://localhost/mcp'
    const answers = [
      await send(as, session, toolCall('increment_counter')),
      await send(as, session, { jsonrpc: '2.0', method: 'notifications/initialized' }),
      await as(new Request(url, { headers })),
      await as(new Request(url, { method: 'DELETE', headers })),
    ]
    expect(answers.map(({ status }) => status)).toEqual([404, 404, 404, 404])
  }

  function restored({ events }: LocalApp): unknown[] {
    return events.filter(({ event }) => event === 'session_restored')
  }
})

describe('where nobody is asked', () => {
  it.each(['localhost', '127.0.0.1:8787', '[::1]:8787'])('all are nobody at %s', async (host) => {
    expect(await anonymousHere(new Request(`http://${host}/mcp`))).toBe('anonymous')
  })

  it.each(['mcp.example', 'localhost.example', '10.0.0.1', '[::ffff:7f00:1]'])(
    'nobody is served at %s',
    async (host) => {
      const refused = anonymousHere(new Request(`http://${host}/mcp`))
      await expect(refused).rejects.toMatchObject({ code: 'anonymous_forbidden' })
    },
  )
})
