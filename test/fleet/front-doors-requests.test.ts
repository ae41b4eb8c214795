/** What nginx makes of requests before an instance gets them, and of answers before a client does. */
import { once } from 'node:events'
import { createServer, type IncomingHttpHeaders } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { DOORS, startNginx, type Nginx } from '../support/nginx.ts'

const MIB = 1024 * 1024
const DIE = 'x-die'
const COOKIE = /^MCP_SESSION=[\da-f]{32}; Path=\/mcp; Max-Age=86400; HttpOnly; SameSite=Lax$/

interface Got {
  readonly headers: IncomingHttpHeaders
  readonly body: string
  readonly server: number
}

describe.each(DOORS)('nginx, %s,', (door) => {
  let nginx: Nginx
  let got: Got[]
  const stops: (() => unknown)[] = []

  beforeAll(async () => {
    const servers = await Promise.all([1, 2, 3].map((number) => startServer(number)))
    nginx = await startNginx(door, servers)
  })
  beforeEach(() => {
    got = []
  })
  afterAll(async () => {
    await nginx.stop()
    for (const stop of stops) stop()
  })

  it('sends what an instance did not answer to the next one, under the same key', async () => {
    const response = await sent({ [DIE]: '2' }, 'x'.repeat(MIB))
    expect(response.status).toBe(200)
    expect(got.map(({ body }) => body.length)).toEqual([MIB, MIB, MIB])
    expect(new Set(got.map(({ server }) => server)).size).toBe(3)
    const keys = new Set(got.map(({ headers }) => headers['holdfast-request']))
    expect([...keys]).toEqual([expect.stringMatching(/^[\da-f]{32}$/)])
    await sent()
    expect(keys.has(got.at(-1)?.headers['holdfast-request'])).toBe(false)
  })

  it('says so itself when none answers, for the client to come again', async () => {
    const response = await sent({ [DIE]: '3' })
    expect(got).toHaveLength(3)
    expect(response.status).toBe(503)
    expect(response.headers.get('retry-after')).toBe('1')
    expect(response.headers.get('cache-control')).toBe('no-store')
    expect(await response.json()).toMatchObject({ error: { data: { type: 'store_unavailable' } } })
  })

  it("does not send again what an instance has answered with 503, and passes on the instance's words", async () => {
    const response = await sent({ 'x-status': '503' })
    expect(response.status).toBe(503)
    expect(await response.text()).toBe('{}')
    expect(got).toHaveLength(1)
  })

  it('tells who asks, whatever a client says of it', async () => {
    const forged = {
      'x-forwarded-for': '192.0.2.1',
      'x-forwarded-host': 'evil',
      'x-forwarded-proto': 'https',
      'x-forwarded-port': '1',
      'x-real-ip': '192.0.2.1',
      forwarded: 'for=192.0.2.1',
      'holdfast-request': 'forged',
      'holdfast-held': '1',
    }
    const response = await sent({ ...forged, 'x-other': 'kept' })
    const headers = got[0]?.headers ?? {}
    expect(headers).toMatchObject({
      host: 'localhost',
      'x-forwarded-for': '127.0.0.1',
      'x-other': 'kept',
    })
    expect(headers['holdfast-request']).not.toBe('forged')
    const told = Object.keys(headers).filter((name) => name in forged)
    expect(told.toSorted()).toEqual(['holdfast-request', 'x-forwarded-for'])
    expect(response.headers.has('holdfast-held')).toBe(false)
  })

  it('takes what an instance takes, and refuses more as an instance would', async () => {
    const response = await sent({}, 'x'.repeat(MIB + 1))
    expect(response.status).toBe(413)
    expect(await response.json()).toMatchObject({ error: { data: { type: 'body_too_large' } } })
    expect(got).toHaveLength(0)
  })

  it('gives each client one cookie, where that is how it finds an instance', async () => {
    const given = (await sent()).headers.getSetCookie()
    expect(given).toEqual(door === 'by-cookie' ? [expect.stringMatching(COOKIE)] : [])
    const again = await sent({ cookie: given.join().split(';')[0] ?? '' })
    expect(again.headers.getSetCookie()).toEqual([])
  })

  function sent(headers: Record<string, string> = {}, body = '{}'): Promise<Response> {
    return fetch(nginx.url, { method: 'POST', headers, body })
  }

  /** Notes what it gets. It hangs up on the first so many of a request that says so. */
  async function startServer(number: number): Promise<string> {
    const server = createServer((request, response) => {
      void text(request).then((body) => {
        const { headers } = request
        got.push({ headers, body, server: number })
        if (got.length <= Number(headers[DIE] ?? 0)) return request.socket.destroy()
        response.writeHead(Number(headers['x-status'] ?? 200), { 'holdfast-held': '1' })
        return response.end('{}')
      })
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    stops.push(() => server.close())
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  }
})
