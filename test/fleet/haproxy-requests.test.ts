/** What HAProxy makes of requests before an instance gets them, and of answers before a client does. */
import { once } from 'node:events'
import { Agent, request } from 'node:http'
import { connect as connectHttp2 } from 'node:http2'
import { connect, type Socket } from 'node:net'
import { json } from 'node:stream/consumers'
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from 'vitest'
import { DIE, SAY, startFront, type Front } from '../support/haproxy.ts'
import { until } from '../support/mcp.ts'

const MOST = 20
const UUID = '[\\da-f]{8}(-[\\da-f]{4}){3}-[\\da-f]{12}'
const HEAD = 'POST /mcp HTTP/1.1\r\nhost: localhost\r\n'

describe('HAProxy', () => {
  let front: Front

  beforeAll(async () => {
    front = await startFront({ MAX_CONNECTIONS_PER_ADDRESS: String(MOST) })
  })
  beforeEach(() => front.are('ready'))
  afterAll(() => front.stop())

  /** Sends on a connection of its own, and tells the key that its request came with. */
  function connection(): () => Promise<string | undefined> {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    onTestFinished(() => agent.destroy())
    return async () => {
      const sent = request(`${front.url}/mcp`, { method: 'POST', agent })
      sent.end('{}')
      const [response] = await once(sent, 'response')
      return ((await json(response)) as Record<string, string>)['holdfast-request']
    }
  }

  const states = ['ready', 'only live', 'starting'] as const

  it.each(states)('tells who asks, whatever a client says of it (%s)', async (state) => {
    await front.are(state)
    const forged = {
      'x-forwarded-for': '192.0.2.1',
      'x-forwarded-host': 'evil',
      'x-forwarded-proto': 'https',
      'x-forwarded-port': '1',
      'x-real-ip': '192.0.2.1',
      forwarded: 'for=192.0.2.1',
      'holdfast-request': 'forged',
      'holdfast-held': '1',
      'holdfast-anything': 'forged',
    }
    const { headers } = await front.sent({ ...forged, 'x-other': 'kept' })
    expect(headers).toMatchObject({ 'x-forwarded-for': '127.0.0.1', 'x-other': 'kept' })
    expect(headers['holdfast-request']).toMatch(new RegExp(`^${UUID};number=\\d+$`))
    const told = Object.keys(headers).filter((name) => name in forged)
    expect(told.toSorted()).toEqual(['holdfast-request', 'x-forwarded-for'])
  })

  it.each(['idempotency-key', 'last-event-id'])('takes a comma in %s', async (name) => {
    const { response, headers } = await front.sent({ [name]: 'order,42' })
    expect(response.status).toBe(200)
    expect(headers[name]).toBe('order,42')
  })

  it.each(states)(
    'numbers what comes on a connection, and names the connection (%s)',
    async (state) => {
      await front.are(state)
      const [one, other] = [connection(), connection()]
      const keys = [await one(), await one(), await other(), await one()]
      const [name = '', second = ''] = [keys[0], keys[2]].map((key) => key?.split(';')[0])
      expect(keys).toEqual([
        `${name};number=1`,
        `${name};number=2`,
        `${second};number=1`,
        `${name};number=3`,
      ])
      expect(second).not.toBe(name)
    },
  )

  it('names each request for itself where they come side by side', async () => {
    const session = connectHttp2(front.url)
    onTestFinished(() => session.close())
    const keys = [1, 2].map(async () => {
      const stream = session.request({ ':method': 'POST', ':path': '/mcp' })
      stream.end('{}')
      return ((await json(stream)) as Record<string, string>)['holdfast-request']
    })
    const [one, other] = await Promise.all(keys)
    expect(one).toMatch(new RegExp(`^${UUID}$`))
    expect(other).toMatch(new RegExp(`^${UUID}$`))
    expect(other).not.toBe(one)
  })

  it.each(states)('keeps to itself that an instance has a session (%s)', async (state) => {
    await front.are(state)
    const { response } = await front.sent({ [SAY]: 'holdfast-held=1' })
    expect(response.status).toBe(200)
    expect(response.headers.has('holdfast-held')).toBe(false)
    const { response: other } = await front.sent({ [SAY]: 'x-other=1' })
    expect(other.headers.get('x-other')).toBe('1')
  })

  it('remembers handles only of sessions that an instance has', async () => {
    const named = (handle: string) => ({
      'mcp-protocol-version': '2026-07-28',
      'mcp-param-session': handle,
    })
    for (let n = 0; n < 10; n++) {
      await front.sent(named(`made up ${n}`))
      await front.sent({ ...named(`made up, too ${n}`), [SAY]: 'holdfast-held=0' })
      await front.sent({ ...named(`forged ${n}`), 'holdfast-held': '1' })
      const uri = `resource://session/another-${n}/summary`
      await front.sent({ 'mcp-protocol-version': '2026-07-28', 'mcp-name': uri })
    }
    expect(await remembered()).toBe(0)
    await front.sent({ ...named('a session'), [SAY]: 'holdfast-held=1' })
    await front.sent({ ...named('a session'), [SAY]: 'holdfast-held=1' })
    expect(await remembered()).toBe(1)
    await front.sent({ 'x-any': '1', [SAY]: 'mcp-session-id=an-earlier-one' })
    expect(await remembered()).toBe(2)
  })

  it('tells an address with too many connections so, and lets it in when it has fewer', async () => {
    const open: Socket[] = []
    onTestFinished(() => open.forEach((socket) => socket.destroy()))
    const openMore = async (count: number): Promise<void> => {
      for (let n = 0; n < count; n++) open.push(connect(front.port, '127.0.0.1'))
      for (const socket of open) socket.on('error', () => undefined)
      await until(async () => open.every(({ connecting }) => !connecting), Boolean)
    }
    await openMore(MOST)
    await until(connections, (count) => count >= MOST)
    const refused = parse(await say(`${HEAD}content-length: 2\r\n\r\n{}`))
    expect(refused.status).toBe(429)
    expect(refused.headers.get('retry-after')).toBe('5')
    expectError(refused, -32_000, 'too_many_connections')

    // Of those that don't ask, some more are kept, and no more than that.
    await openMore(300)
    expect(await until(connections, (count) => count >= MOST + 100)).toBe(MOST + 100)
    await until(async () => open.filter(({ closed }) => closed).length >= 200, Boolean)
    expect(await say(`${HEAD}content-length: 2\r\n\r\n{}`)).toBe('')

    for (const socket of open) socket.destroy()
    await until(connections, (count) => count < MOST)
    expect(parse(await say(`${HEAD}connection: close\r\ncontent-length: 2\r\n\r\n{}`)).status).toBe(
      200,
    )
  })

  it('waits ten seconds for a request, be it slow in its headers or in its body', async () => {
    const began = performance.now()
    const [head, body] = await Promise.all([
      trickle(`${HEAD}x-slow: `),
      trickle(`${HEAD}content-length: 1000\r\n\r\n`),
    ])
    expect(performance.now() - began).toBeGreaterThan(9000)
    expect(performance.now() - began).toBeLessThan(20_000)
    expect(parse(head).status).toBe(408)
    expect(parse(body).status).toBe(408)
    expectError(parse(body), -32_000, 'request_timeout')
  })

  it('takes a hundred headers, which is more than clients send', async () => {
    const lines = (count: number) =>
      Array.from({ length: count }, (_, n) => `x-${n}: 1\r\n`).join('')
    const end = 'connection: close\r\ncontent-length: 2\r\n\r\n{}'
    expect(parse(await say(HEAD + lines(90) + end)).status).toBe(200)
    expect(parse(await say(HEAD + lines(110) + end)).status).toBe(400)
  })

  it.each([
    ['all instances die of', DIE],
    ['an instance dies of, and that is too large to be sent again', DIE.padEnd(70_000)],
  ])('answers as an instance would a request that %s', async (_, body) => {
    const head = `${HEAD}connection: close\r\ncontent-length: ${body.length}\r\n\r\n`
    const answer = parse(await say(head + body))
    expect(answer.status).toBe(502)
    expect(answer.headers.get('retry-after')).toBe('1')
    expectError(answer, -32_000, 'store_unavailable')
  })

  async function remembered(): Promise<number> {
    return Number(/used:(\d+)/.exec(await front.admin('show table mcp'))?.[1])
  }

  async function connections(): Promise<number> {
    return Number(/conn_cur=(\d+)/.exec(await front.admin('show table addresses'))?.[1] ?? 0)
  }

  /** All that is answered to this until the connection is closed: nothing, if it is reset. */
  async function say(text: string): Promise<string> {
    const socket = connect(front.port, '127.0.0.1')
    const { promise, resolve } = Promise.withResolvers<string>()
    let answer = ''
    socket.on('data', (chunk) => (answer += chunk))
    socket.on('error', () => undefined)
    socket.once('close', () => resolve(answer))
    socket.write(text)
    return promise
  }

  /** Says this, and then one letter after the other, until it is answered. */
  async function trickle(text: string): Promise<string> {
    const socket = connect(front.port, '127.0.0.1')
    const speaking = setInterval(() => socket.write('x'), 300)
    socket.write(text)
    const [answer] = await once(socket, 'data')
    clearInterval(speaking)
    socket.destroy()
    return String(answer)
  }
})

interface Answer {
  readonly status: number
  readonly headers: Headers
  readonly body: string
}

function parse(text: string): Answer {
  const [head = '', body = ''] = text.split('\r\n\r\n')
  const [first = '', ...lines] = head.split('\r\n')
  const headers = lines.map((line) => line.split(': ') as [string, string])
  return { status: Number(first.split(' ')[1]), headers: new Headers(headers), body }
}

/** A JSON-RPC error, to be kept by nobody. */
function expectError(
  { headers, body }: Pick<Answer, 'headers' | 'body'>,
  code: number,
  type: string,
): void {
  expect(headers.get('content-type')).toBe('application/json')
  expect(headers.get('cache-control')).toBe('no-store')
  const error = { code, message: expect.any(String), data: { type } }
  expect(JSON.parse(body)).toEqual({ jsonrpc: '2.0', id: null, error })
}
