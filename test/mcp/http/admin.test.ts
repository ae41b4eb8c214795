import { createHash } from 'node:crypto'
import { getEventListeners } from 'node:events'
import { setImmediate } from 'node:timers/promises'
import { afterAll, describe, expect, it, onTestFinished } from 'vitest'
import { createNodeServer } from '../../../haproxy-compat/serve-node.ts'
import { storeAway } from '../../../mcp/errors.ts'
import { createAdmin } from '../../../mcp/http/admin.ts'
import { operators } from '../../../mcp/http/auth.ts'
import type { Operator, Overview } from '../../../mcp/operator.ts'
import { systemClock, type Clock } from '../../../mcp/session/clock.ts'
import { tools } from '../../../mcp/tools/index.ts'
import { bearing, hashed } from '../../hostile/auth-callers.ts'
import { startIssuer } from '../../hostile/issuer.ts'
import { callTool, openSession, readEvents, until, type Fetch } from '../../support/mcp.ts'

// The modules of a whole server take their time.
const patience = { timeout: 60_000 }

const GATED = ['/admin/overview', '/admin/live', '/admin/sessions/0123456789abcdef', '/metrics']
const [CALLER, ADMIN] = ['token-of-a-caller', 'token-of-an-operator']
const TOKENS = [hashed('ann', CALLER, 'mcp'), hashed('olga', ADMIN, 'holdfast:admin')].join()

interface Server {
  readonly fetch: Fetch
  readonly lines: readonly string[]
  readonly ask: (
    path: string,
    headers?: Record<string, string>,
    method?: string,
  ) => Promise<Response>
}

const running: { close(): Promise<void> }[] = []
afterAll(() => Promise.all(running.map((server) => server.close())))

/** A whole instance, which takes the word of `x-real-address` for where requests come from. */
async function start(settings: Record<string, string> = {}): Promise<Server> {
  const lines: string[] = []
  const own = { PORT: '0', DRAIN_SECONDS: '0', CLIENT_ADDRESS_HEADER: 'x-real-address' }
  const server = await createNodeServer({
    ...tools,
    settings: { ...own, ...settings },
    write: (line) => void lines.push(line),
  })
  running.push(server)
  const base = server.url.replace(/\/mcp$/, '')
  return {
    lines,
    fetch: (request) => fetch(new Request(`${base}${new URL(request.url).pathname}`, request)),
    ask: (path, headers = {}, method = 'GET') => fetch(`${base}${path}`, { method, headers }),
  }
}

/** What an answer comes to; one that goes on is not waited for. */
async function outcomeOf(response: Response): Promise<readonly [number, string | undefined]> {
  if (response.ok) {
    await response.body?.cancel()
    return [response.status, undefined]
  }
  const { error } = (await response.json()) as { error: string | { data: { type: string } } }
  return [response.status, typeof error === 'string' ? error : error.data.type]
}

describe('where nobody says who they are', patience, () => {
  const server = start({ ALLOW_ANONYMOUS: '1' })

  it.each(['127.0.0.1', '127.9.9.9', '::1', '::ffff:127.0.0.1'])(
    'who is on this machine is an operator: %s',
    async (address) => {
      const { ask } = await server
      for (const path of ['/admin/overview', '/admin/live', '/metrics']) {
        const headers = { 'x-real-address': address, 'x-forwarded-for': address }
        expect(await outcomeOf(await ask(path, headers))).toEqual([200, undefined])
      }
    },
  )

  it.each([
    { 'x-real-address': '10.0.0.1' },
    { 'x-real-address': '::ffff:10.0.0.1' },
    { 'x-real-address': '127.0.0.1.example' },
    { 'x-real-address': 'unknown' },
    // From a proxy on this machine, about which nothing is set up.
    { 'x-forwarded-for': '10.0.0.1' },
    { 'x-forwarded-for': '127.0.0.1, 10.0.0.1' },
  ])('nobody else is: %o', async (headers) => {
    const { ask } = await server
    for (const path of GATED) {
      expect(await outcomeOf(await ask(path, headers))).toEqual([403, 'admin_forbidden'])
    }
  })

  it.each([
    [{ origin: 'https://elsewhere.example' }, 'origin_forbidden'],
    [{ 'sec-fetch-site': 'cross-site' }, 'origin_forbidden'],
    [{ 'sec-fetch-site': 'same-site', origin: 'http://localhost:3000' }, 'origin_forbidden'],
    [{ 'sec-fetch-site': 'same-origin' }, undefined],
    [{ 'sec-fetch-site': 'none' }, undefined],
  ])('and whose page it is counts: %o', async (headers, why) => {
    const { ask } = await server
    expect((await outcomeOf(await ask('/admin/overview', headers)))[1]).toBe(why)
  })
})

describe('where callers have tokens', patience, () => {
  const server = start({ AUTH_TOKENS: TOKENS, REQUIRED_SCOPE: 'mcp' })
  const by = (token: string) => ({ authorization: `Bearer ${token}` })

  it.each([
    ['nobody', {}, 401, 'invalid_token'],
    ['a made-up token', by('made-up'), 401, 'invalid_token'],
    ['a caller', by(CALLER), 403, 'insufficient_scope'],
  ])('%s is no operator, on whatever machine', async (_who, headers, status, error) => {
    const { ask } = await server
    for (const path of GATED)
      expect(await outcomeOf(await ask(path, headers))).toEqual([status, error])
    const drained = await ask('/admin/instances/node-1/drain', headers, 'POST')
    expect(await outcomeOf(drained)).toEqual([status, error])
  })

  it('an operator is, from anywhere, and need not be a caller', async () => {
    const { ask, fetch: call } = await server
    const headers = { ...by(ADMIN), 'x-real-address': '10.0.0.1' }
    expect(await outcomeOf(await ask('/admin/overview', headers))).toEqual([200, undefined])
    await expect(openSession(bearing(call, ADMIN))).rejects.toThrow('No session: HTTP 403')
  })

  it('shows operators nothing by which a session could be used', async () => {
    const { ask, fetch: call, lines } = await server
    const caller = bearing(call, CALLER)
    const session = await openSession(caller)
    await callTool(caller, session, 'add_note', { note: 'a secret note' })
    const overview = async (): Promise<Overview> => (await ask('/admin/overview', by(ADMIN))).json()
    const { sessions } = await until(overview, ({ sessions: { latest } }) => latest[0]?.calls === 1)
    const [{ name, id } = { name: '', id: '' }] = sessions.latest
    expect(session.startsWith(id)).toBe(true)

    const live = readEvents(await ask('/admin/live', by(ADMIN)))
    const events = readEvents(await ask(`/admin/sessions/${name}/events`, by(ADMIN)))
    const happening = events.next()
    await callTool(caller, session, 'increment_counter')
    const told = [
      JSON.stringify(sessions),
      await (await ask(`/admin/sessions/${name}`, by(ADMIN))).text(),
      await (await ask('/metrics', by(ADMIN))).text(),
      JSON.stringify((await live.next()).value),
      JSON.stringify((await happening).value),
    ]
    const ended = await ask(`/admin/sessions/${name}`, by(ADMIN), 'DELETE')
    expect(ended.status).toBe(204)
    for await (const event of events) told.push(event.data)
    expect(told.at(-1)).toContain('"ended"')
    await live.return(undefined)
    for (const secret of [session, 'a secret note', CALLER, ADMIN]) {
      expect([...told, ...lines].join('\n')).not.toContain(secret)
    }
    const done = { event: 'operator_ended_session', name, from: '127.0.0.1' }
    expect(lines.map((line) => JSON.parse(line))).toContainEqual(expect.objectContaining(done))
  })

  it('goes by the scope that it is told', async () => {
    const { ask } = await start({ AUTH_TOKENS: TOKENS, ADMIN_SCOPE: 'mcp' })
    expect((await outcomeOf(await ask('/admin/overview', by(CALLER))))[0]).toBe(200)
    expect((await outcomeOf(await ask('/admin/overview', by(ADMIN))))[0]).toBe(403)
  })

  it('reads it in tokens of an issuer as well', async () => {
    const issuer = await startIssuer()
    onTestFinished(() => issuer.stop())
    const { ask } = await start(issuer.settings)
    for (const [scope, status] of [
      ['mcp', 403],
      ['holdfast:admin', 200],
    ] as const) {
      const headers = by(await issuer.sign({ claims: { scope } }))
      expect((await outcomeOf(await ask('/admin/overview', headers)))[0]).toBe(status)
    }
  })
})

describe('what operators ask for', patience, () => {
  const server = start()

  it.each([
    ['GET', '/admin/sessions/0123456789abcdef', 404, 'session_not_found'],
    ['DELETE', '/admin/sessions/0123456789abcdef', 404, 'session_not_found'],
    ['GET', '/admin/sessions/0123456789abcdef/events', 404, 'session_not_found'],
    ['POST', '/admin/instances/another/drain', 404, 'instance_not_found'],
    ['POST', '/admin/instances/another/undrain', 404, 'instance_not_found'],
    ['GET', '/admin/instances/node-1/drain', 405, 'method_not_allowed'],
    ['POST', '/admin/overview', 405, 'method_not_allowed'],
    ['PUT', '/metrics', 405, 'method_not_allowed'],
  ])('is refused where it can’t be: %s %s', async (method, path, status, why) => {
    const { ask } = await server
    const response = await ask(path, {}, method)
    if (status === 405) expect(response.headers.get('allow')).toMatch(/^(GET|POST)/)
    expect(await outcomeOf(response)).toEqual([status, why])
  })

  it('opens no stream for its head alone', async () => {
    const { ask } = await server
    expect((await ask('/admin/live', {}, 'HEAD')).status).toBe(405)
  })

  it('has an instance be not ready, and ready again', async () => {
    const { ask, lines } = await server
    for (const [verb, status] of [
      ['drain', 503],
      ['undrain', 200],
    ] as const) {
      expect((await ask(`/admin/instances/node-1/${verb}`, {}, 'POST')).status).toBe(202)
      expect((await ask('/ready')).status).toBe(status)
      const line = { event: `operator_${verb}ed`, target: 'node-1', principal: 'anonymous' }
      expect(lines.map((text) => JSON.parse(text))).toContainEqual(expect.objectContaining(line))
    }
  })

  it('finds no drain where instances are the platform’s', async () => {
    const { drain: _, ...operator } = { ...nothing, drain: undefined }
    const app = createAdmin({ ...options, operator })
    const request = new Request('http://localhost/admin/instances/a/drain', { method: 'POST' })
    expect(await outcomeOf(await app.fetch(request))).toEqual([501, 'not_implemented'])
  })
})

describe('the page', patience, () => {
  it('is everybody’s, and may do nothing but what is in it', async () => {
    const { ask } = await start({ AUTH_TOKENS: TOKENS })
    const response = await ask('/dashboard', { 'x-real-address': '10.0.0.1' })
    const { status, headers } = response
    const text = await response.text()
    expect([status, headers.get('content-type')]).toEqual([200, 'text/html; charset=utf-8'])
    expect(headers.get('cache-control')).toBe('no-store')
    expect(headers.get('referrer-policy')).toBe('no-referrer')
    const policy = headers.get('content-security-policy')?.split('; ') ?? []
    const closed = ["default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'"]
    expect(policy).toEqual(
      expect.arrayContaining([...closed, "form-action 'none'", "connect-src 'self'"]),
    )
    for (const element of ['script', 'style']) {
      const [, inline = ''] =
        new RegExp(`<${element}[^>]*>(.*?)</${element}>`, 's').exec(text) ?? []
      const hash = createHash('sha256').update(inline).digest('base64')
      expect(policy).toContain(`${element}-src 'sha256-${hash}'`)
    }
    expect(text).not.toMatch(/(?:src|href)="?(?!data:)/)
  })
})

const empty: Overview = {
  at: 0,
  topology: 'node',
  sessions: { total: 0, latest: [] },
  instances: [],
  failovers: [],
}
const nothing: Operator = {
  overview: async () => empty,
  end: async () => false,
  follow: async () => undefined,
}
const options = {
  operator: nothing,
  authenticateOperator: operators(undefined, systemClock),
  allowed: { hosts: ['localhost'], origins: [] },
  clock: systemClock,
  log: () => undefined,
  keepAliveMs: 1e9,
  addressOf: () => '127.0.0.1',
}

it.each(['live', 'sessions/x/events'])('who cannot be told %s leaves no trace', async (path) => {
  const stopping = new AbortController()
  const away = (): Promise<never> => Promise.reject(storeAway('away'))
  const operator = { ...nothing, overview: away, follow: away }
  const app = createAdmin({ ...options, operator, stopping: stopping.signal })
  const { status } = await app.fetch(new Request(`http://localhost/admin/${path}`))
  expect(status).toBe(503)
  expect(getEventListeners(stopping.signal, 'abort')).toEqual([])
})

it('who reads nothing misses overviews, and none is kept for them', async () => {
  const timers = new Set<() => void>()
  const clock: Clock = {
    now: () => 0,
    timer(_ms, fire) {
      timers.add(fire)
      return () => timers.delete(fire)
    },
  }
  let made = 0
  const operator = { ...nothing, overview: async () => ({ ...empty, at: ++made }) }
  const app = createAdmin({ ...options, clock, operator })
  const response = await app.fetch(new Request('http://localhost/admin/live'))
  for (let second = 0; second < 100; second++) {
    for (const fire of [...timers].slice(1)) fire()
    await setImmediate()
  }
  expect(made).toBeLessThanOrEqual(2)
  await response.body?.cancel()
})
