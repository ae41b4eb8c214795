import { Client, ProtocolError, SdkHttpError } from '@modelcontextprotocol/client'
import { describe, expect, it } from 'vitest'
import { ClientError } from '../../client/retry.ts'
import { ResilientTransport } from '../../client/resilient-transport.ts'
import { until } from '../support/mcp.ts'
import { aWhile, connectTo, counterOf, failures, increment, Service, URL_ONE } from './support.ts'

const INCREMENT = { name: 'increment_counter', arguments: {} }

describe('with a service that works', () => {
  it('is the official client in all it offers', async () => {
    const service = new Service()
    const { client, events } = await connectTo(service)
    expect(client.getServerVersion()?.name).toBe('holdfast')
    expect((await client.listTools()).tools).toHaveLength(10)
    expect((await client.listResourceTemplates()).resourceTemplates).toHaveLength(1)
    expect(await client.ping()).toEqual({})
    await increment(client)
    const uri = `resource://session/${client.sessionId}/summary`
    expect(JSON.stringify(await client.readResource({ uri }))).toContain('\\"counter\\": 1')
    await client.terminateSession()
    expect(client.sessionId).toBeUndefined()
    await client.close()
    expect(failures(events)).toEqual([])
  })

  it('gives the stock client its resilience as a transport', async () => {
    const service = new Service()
    failFirst(service, () => new Response(null, { status: 503 }))
    const client = new Client({ name: 'stock', version: '0' })
    const { fetch } = service
    await client.connect(new ResilientTransport(URL_ONE, { transport: { fetch }, random: () => 0 }))
    const { structuredContent } = await client.callTool(INCREMENT)
    expect(structuredContent).toMatchObject({ counter: 1 })
    expect(service.calls('increment_counter')).toHaveLength(2)
    await client.close()
  })
})

describe('the idempotency key', () => {
  it('is one for all attempts of a call, and another one for the next call', async () => {
    const service = new Service()
    const { client } = await connectTo(service)
    let left = 3
    service.handle = async (seen, forward) => {
      const response = await forward()
      if (seen.tool === undefined || left-- <= 0) return response
      throw new TypeError('fetch failed')
    }
    expect(await increment(client)).toBe(1)
    const keys = service.calls('increment_counter').map(({ key }) => key)
    expect(keys).toHaveLength(4)
    expect(keys[0]).toMatch(/^[0-9a-f-]{36}$/)
    expect(new Set(keys).size).toBe(1)
    expect(await increment(client)).toBe(2)
    expect(service.calls('increment_counter').at(-1)?.key).not.toBe(keys[0])
    await client.close()
  })

  it.each([{ _meta: { 'dev.holdfast/idempotency-key': 'mine' } }, { idempotencyKey: 'mine' }])(
    "is the caller's own where there is one: %j",
    async (own) => {
      const service = new Service()
      const { client } = await connectTo(service)
      for (const _ of [1, 2]) {
        const { structuredContent } = await client.callTool({ ...INCREMENT, ...own })
        expect(structuredContent).toMatchObject({ counter: 1 })
      }
      expect(service.calls('increment_counter').map(({ key }) => key)).toEqual(['mine', 'mine'])
      await client.close()
    },
  )
})

describe('what is tried again, and what is not', () => {
  it.each([408, 425, 429, 502, 503, 504])('tries again after HTTP %i', async (status) => {
    const service = new Service()
    const { client, events } = await connectTo(service)
    failFirst(service, () => new Response(null, { status }))
    expect(await increment(client)).toBe(1)
    expect(service.calls('increment_counter')).toHaveLength(2)
    expect(failures(events)).toMatchObject([
      { method: 'tools/call', attempt: 1, waitMs: 0, why: `HTTP ${status} from ${URL_ONE}` },
    ])
    await client.close()
  })

  it.each([400, 401, 403, 405, 409, 413, 422, 500, 501])('not after HTTP %i', async (status) => {
    const service = new Service()
    const { client } = await connectTo(service)
    failFirst(service, () => new Response('no', { status }))
    const failed = increment(client)
    await expect(failed).rejects.toBeInstanceOf(SdkHttpError)
    await expect(failed).rejects.toMatchObject({ status })
    expect(service.calls('increment_counter')).toHaveLength(1)
    await client.close()
  })

  it('tries again when the body of an answer breaks', async () => {
    const service = new Service()
    const { client } = await connectTo(service)
    failFirst(service, (response) => {
      const body = new ReadableStream({
        pull: (stream) => stream.error(new TypeError('terminated')),
      })
      return new Response(body, response)
    })
    expect(await increment(client)).toBe(1)
    expect(await counterOf(client)).toBe(1)
    await client.close()
  })

  it('hands over the error of a tool as it is', async () => {
    const service = new Service()
    const { client } = await connectTo(service)
    const result = await client.callTool({ name: 'add_note', arguments: {} })
    expect(result.isError).toBe(true)
    expect(service.calls('add_note')).toHaveLength(1)
    await client.close()
  })

  it('hands over a JSON-RPC error as it is', async () => {
    const service = new Service()
    const { client } = await connectTo(service)
    const _meta = { 'dev.holdfast/idempotency-key': 'mine' }
    await client.callTool({ ...INCREMENT, _meta })
    const other = client.callTool({ name: 'get_counter', arguments: {}, _meta })
    await expect(other).rejects.toBeInstanceOf(ProtocolError)
    await expect(other).rejects.toMatchObject({ code: 4091 })
    expect(service.calls('get_counter')).toHaveLength(1)
    await client.close()
  })

  it('throws at once what is no failure of the network', async () => {
    const service = new Service()
    const { client } = await connectTo(service)
    failFirst(service, () => Promise.reject(new Error('no token')))
    await expect(increment(client)).rejects.toThrow('no token')
    expect(service.calls('increment_counter')).toHaveLength(1)
    await client.close()
  })

  it('gives up a call that its caller has cancelled', async () => {
    const service = new Service()
    const stop = new AbortController()
    const { client } = await connectTo(service)
    service.handle = async (seen, forward) => {
      if (seen.tool === undefined) return forward()
      if (service.calls('increment_counter').length === 3) stop.abort()
      return new Response(null, { status: 503 })
    }
    await expect(client.callTool(INCREMENT, { signal: stop.signal })).rejects.toThrow('abort')
    const { length } = service.calls('increment_counter')
    await aWhile()
    expect(service.calls('increment_counter')).toHaveLength(length)
    await client.close()
  })
})

describe('time', () => {
  /** Turned by hand. */
  class HandClock {
    at = Date.parse('2026-11-20T12:00:00Z')
    readonly timers = new Set<{ at: number; fire: () => void }>()

    readonly now = (): number => this.at
    readonly timer = (ms: number, fire: () => void): (() => void) => {
      const timer = { at: this.at + ms, fire }
      this.timers.add(timer)
      return () => this.timers.delete(timer)
    }

    turn(ms: number): void {
      this.at += ms
      for (const timer of this.timers) {
        if (timer.at > this.at) continue
        this.timers.delete(timer)
        timer.fire()
      }
    }
  }

  it.each([
    ['2', 2000],
    ['Fri, 20 Nov 2026 12:00:03 GMT', 3000],
  ])('waits as long as Retry-After: %s asks', async (text, waitMs) => {
    const service = new Service()
    const clock = new HandClock()
    const { client, events } = await connectTo(service, URL_ONE, { clock })
    failFirst(service, () => new Response(null, { status: 503, headers: { 'retry-after': text } }))
    const call = increment(client)
    await until(
      async () => failures(events),
      ({ length }) => length === 1,
    )
    expect(failures(events)[0]?.waitMs).toBe(waitMs)
    clock.turn(waitMs - 1)
    await client.ping()
    expect(service.calls('increment_counter')).toHaveLength(1)
    clock.turn(1)
    expect(await call).toBe(1)
    await client.close()
  })

  it('asks another server at once, and comes back no sooner than Retry-After asks', async () => {
    const service = new Service()
    const clock = new HandClock()
    const two = 'http://127.0.0.1/mcp'
    const { client, events } = await connectTo(service, [URL_ONE, two], { clock })
    const asked: string[] = []
    service.handle = async ({ tool, request }, forward) => {
      if (tool === undefined) return forward()
      asked.push(request.url)
      if (asked.length > 2) return forward()
      const wait = request.url === URL_ONE ? '3' : '2'
      return new Response(null, { status: 503, headers: { 'retry-after': wait } })
    }
    const call = increment(client)
    for (const [n, waitMs] of [0, 3000].entries()) {
      await until(
        async () => failures(events),
        ({ length }) => length > n,
      )
      expect(failures(events)[n]?.waitMs).toBe(waitMs)
      clock.turn(waitMs)
    }
    expect(await call).toBe(1)
    expect(asked).toEqual([URL_ONE, two, URL_ONE])
    await client.close()
  })

  it('ends a call at its deadline, and names the last cause', async () => {
    const service = new Service()
    const { client } = await connectTo(service, URL_ONE, { deadlineMs: 100, random: () => 1 })
    service.handle = () => Promise.resolve(new Response(null, { status: 502 }))
    const failed = increment(client)
    await expect(failed).rejects.toBeInstanceOf(ClientError)
    await expect(failed).rejects.toMatchObject({
      code: 'deadline_exceeded',
      message: `Cannot finish tools/call: no answer in 100 ms, last cause: HTTP 502 from ${URL_ONE}`,
    })
    await client.close()
  })

  it('ends a call at its deadline when the server asks for a longer wait', async () => {
    const service = new Service()
    const { client } = await connectTo(service)
    failFirst(service, () => new Response(null, { status: 429, headers: { 'retry-after': '60' } }))
    await expect(increment(client)).rejects.toMatchObject({ code: 'deadline_exceeded' })
    await client.close()
  })

  it('ends a call that wakes behind its deadline, and names the last cause', async () => {
    const service = new Service()
    const clock = new HandClock()
    const { client, events } = await connectTo(service, URL_ONE, { clock, deadlineMs: 3000 })
    failFirst(service, () => new Response(null, { status: 503, headers: { 'retry-after': '2' } }))
    const outcome = increment(client).catch((error: unknown) => error)
    await until(
      async () => failures(events),
      ({ length }) => length === 1,
    )
    clock.turn(4000)
    expect(await outcome).toMatchObject({
      code: 'deadline_exceeded',
      message: expect.stringMatching(/last cause: HTTP 503 from/),
    })
    expect(service.calls('increment_counter')).toHaveLength(1)
    await client.close()
  })

  it('ends a call at its deadline when the server hangs', async () => {
    const service = new Service()
    const { client } = await connectTo(service, URL_ONE, { deadlineMs: 50 })
    service.handle = () => new Promise(() => undefined)
    await expect(increment(client)).rejects.toMatchObject({
      code: 'deadline_exceeded',
      message: expect.stringMatching(/last cause: no answer in [0-9]+ ms from/),
    })
    await client.close()
  })

  it('passes over a server that hangs', async () => {
    const service = new Service()
    const urls = [URL_ONE, 'http://127.0.0.1/mcp']
    const { client, events } = await connectTo(service, urls, { deadlineMs: 400 })
    service.handle = (seen, forward) =>
      seen.request.url === URL_ONE ? new Promise(() => undefined) : forward()
    expect(await increment(client)).toBe(1)
    expect(events).toContainEqual({ event: 'failed_over', from: URL_ONE, to: urls[1] })
    await client.close()
  })
})

/** The first tool call's answer is what `fail` makes of it. */
function failFirst(
  service: Service,
  fail: (response: Response) => Response | Promise<Response>,
): void {
  let failed = false
  service.handle = async (seen, forward) => {
    if (seen.tool === undefined || failed) return forward()
    failed = true
    return fail(await forward())
  }
}
