import { describe, expect, it } from 'vitest'
import { until } from '../support/mcp.ts'
import { aWhile, connectTo, counterOf, increment, Service } from './support.ts'

const NOT_FOUND = {
  jsonrpc: '2.0',
  id: null,
  error: { code: -32001, message: 'Session not found' },
}

/** From now on the service knows nothing of session `id`, but still has its state. */
function lose(service: Service, id: string | undefined): void {
  service.handle = async (seen, forward) =>
    seen.session === id ? Response.json(NOT_FOUND, { status: 404 }) : forward()
}

describe('a lost session', () => {
  it('is replaced once, and its state carried over', async () => {
    const service = new Service()
    const { client, events } = await connectTo(service)
    await increment(client)
    const old = client.sessionId ?? ''
    lose(service, old)
    expect(await increment(client)).toBe(2)
    expect(client.sessionId).not.toBe(old)
    expect(await counterOf(client)).toBe(2)
    expect(service.rpcs('initialize')).toHaveLength(2)
    expect(service.rpcs('notifications/initialized').at(-1)?.session).toBe(client.sessionId)
    expect(service.calls('resume_session')).toHaveLength(1)
    expect(events.filter(({ event }) => event === 'session_replaced')).toEqual([
      {
        event: 'session_replaced',
        old: old.slice(0, 8),
        new: client.sessionId?.slice(0, 8),
        keysCopied: 1,
      },
    ])
    const uri = `resource://session/${client.sessionId}/summary`
    expect(JSON.stringify(await client.readResource({ uri }))).toContain('\\"counter\\": 2')
    await client.close()
  })

  it('is replaced once for all calls that find it lost', async () => {
    const service = new Service()
    const { client } = await connectTo(service)
    await increment(client)
    lose(service, client.sessionId)
    const counters = await Promise.all(Array.from({ length: 10 }, () => increment(client)))
    expect(counters.toSorted((a, b) => Number(a) - Number(b))).toEqual(
      Array.from({ length: 10 }, (_, index) => index + 2),
    )
    expect(service.rpcs('initialize')).toHaveLength(2)
    expect(service.calls('resume_session')).toHaveLength(1)
    await client.close()
  })

  it('is not replaced again for a call that is told of the loss late', async () => {
    const service = new Service()
    const { client } = await connectTo(service)
    const late = Promise.withResolvers<void>()
    lose(service, client.sessionId)
    const { handle } = service
    service.handle = async (seen, forward) => {
      const response = await handle(seen, forward)
      if (seen.tool === 'get_counter') await late.promise
      return response
    }
    const call = counterOf(client)
    await increment(client)
    late.resolve()
    expect(await call).toBe(1)
    expect(service.rpcs('initialize')).toHaveLength(2)
    await client.close()
  })

  it('is not replaced any more once the client is closed', async () => {
    const service = new Service()
    const { client } = await connectTo(service)
    lose(service, client.sessionId)
    const { handle } = service
    service.handle = (seen, forward) =>
      seen.rpc === 'initialize'
        ? Promise.resolve(new Response(null, { status: 503 }))
        : handle(seen, forward)
    const call = increment(client)
    call.catch(() => undefined)
    await until(
      async () => service.rpcs('initialize'),
      ({ length }) => length > 2,
    )
    await client.close()
    await expect(call).rejects.toThrow('Connection closed')
    const { length } = service.seen
    await aWhile()
    expect(service.seen).toHaveLength(length)
  })

  it('is replaced over failures of the network, with one key for resume_session', async () => {
    const service = new Service()
    const { client } = await connectTo(service)
    await increment(client)
    const old = client.sessionId
    lose(service, old)
    const { handle } = service
    let left = 2
    service.handle = async (seen, forward) => {
      const response = await handle(seen, forward)
      if (seen.tool === 'resume_session' && left-- > 0) throw new TypeError('fetch failed')
      return response
    }
    expect(await increment(client)).toBe(2)
    const resumes = service.calls('resume_session')
    expect(resumes).toHaveLength(3)
    expect(resumes.map(({ key }) => key)).toEqual(resumes.map(() => expect.any(String)))
    expect(new Set(resumes.map(({ key }) => key)).size).toBe(1)
    await client.close()
  })

  it('hands its log level and subscriptions to the next one', async () => {
    const service = new Service()
    const { client } = await connectTo(service)
    const uri = `resource://session/${client.sessionId}/summary`
    await client.setLoggingLevel('warning')
    await client.subscribeResource({ uri })
    await client.subscribeResource({ uri: `${uri}?` }).catch(() => undefined)
    await client.unsubscribeResource({ uri: `${uri}?` }).catch(() => undefined)
    lose(service, client.sessionId)
    await increment(client)
    const settings = service.seen.filter(({ session }) => session === client.sessionId)
    const rpcs = settings.map(({ rpc }) => rpc)
    expect(rpcs.filter((rpc) => rpc === 'logging/setLevel')).toHaveLength(1)
    expect(rpcs.filter((rpc) => rpc === 'resources/subscribe')).toHaveLength(1)
    await client.close()
  })

  it('is replaced no second time for one call', async () => {
    const service = new Service()
    const { client } = await connectTo(service)
    service.handle = async (seen, forward) =>
      seen.tool === 'increment_counter' ? new Response('lost', { status: 404 }) : forward()
    await expect(increment(client)).rejects.toMatchObject({ status: 404 })
    expect(service.rpcs('initialize')).toHaveLength(2)
    await client.close()
  })

  it('fails its calls when the server opens no other', async () => {
    const service = new Service()
    const { client } = await connectTo(service)
    const failing = new Response('no', { status: 403 })
    lose(service, client.sessionId)
    const { handle } = service
    service.handle = (seen, forward) =>
      seen.rpc === 'initialize' ? Promise.resolve(failing.clone()) : handle(seen, forward)
    await expect(increment(client)).rejects.toMatchObject({
      code: 'session_lost',
      message: 'Cannot replace lost session: initialize was refused',
    })
    // Nothing is broken for good: once the server opens one again, calls go on.
    service.handle = handle
    expect(await increment(client)).toBe(1)
    await client.close()
  })
})

describe('the end of a session', () => {
  it('is not taken for a loss', async () => {
    const service = new Service()
    const { client } = await connectTo(service)
    await client.terminateSession()
    await expect(increment(client)).rejects.toMatchObject({ status: 404 })
    expect(service.rpcs('initialize')).toHaveLength(1)
    await client.close()
  })

  it('is reached when the answer to it is lost', async () => {
    const service = new Service()
    const { client } = await connectTo(service)
    let lost = false
    service.handle = async (seen, forward) => {
      const response = await forward()
      if (seen.method !== 'DELETE' || lost) return response
      lost = true
      throw new TypeError('fetch failed')
    }
    await client.terminateSession()
    expect(service.seen.filter(({ method }) => method === 'DELETE')).toHaveLength(2)
    expect(client.sessionId).toBeUndefined()
    await client.close()
  })

  it('is not brought by close, which ends all that still runs', async () => {
    const service = new Service()
    const { client } = await connectTo(service)
    service.handle = () => Promise.resolve(new Response(null, { status: 503 }))
    const call = increment(client)
    call.catch(() => undefined)
    await until(
      async () => service.calls('increment_counter'),
      ({ length }) => length > 1,
    )
    await client.close()
    await expect(call).rejects.toThrow('Connection closed')
    const { length } = service.seen
    await aWhile()
    expect(service.seen.length).toBe(length)
    expect(service.seen.filter(({ method }) => method === 'DELETE')).toEqual([])
  })
})
