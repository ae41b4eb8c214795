import { afterEach, describe, expect, it } from 'vitest'
import type { ClientEvent } from '../../client/events.ts'
import { createLocalStore } from '../support/local-app.ts'
import { freePort } from '../support/ports.ts'
import {
  connectTo,
  counterOf,
  failures,
  increment,
  listen,
  Service,
  startProxy,
} from './support.ts'

const cleanups: (() => Promise<unknown>)[] = []
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup()
})

/** `what`, until the end of the test. */
function keep<T extends { stop: () => Promise<void> }>(what: T): T {
  cleanups.push(() => what.stop())
  return what
}

describe('over real sockets', () => {
  it('waits for a server that is not there yet', async () => {
    const port = await freePort()
    const refused = Promise.withResolvers<ClientEvent>()
    const connecting = connectTo(undefined, `http://127.0.0.1:${port}/mcp`, {
      random: Math.random,
      onEvent: refused.resolve,
    })
    expect(await refused.promise).toMatchObject({
      event: 'attempt_failed',
      method: 'initialize',
      attempt: 1,
      why: expect.stringContaining('ECONNREFUSED'),
    })
    keep(await listen(new Service().app.fetch, port))
    const { client } = await connecting
    cleanups.push(() => client.close())
    expect(await increment(client)).toBe(1)
  })

  it('applies a call once whose reply was lost after its commit', async () => {
    const service = new Service()
    const server = keep(await listen(service.app.fetch))
    const proxy = keep(await startProxy(server.url))
    const { client, events } = await connectTo(undefined, proxy.url)
    cleanups.push(() => client.close())
    for (const counter of [1, 2, 3, 4, 5]) {
      proxy.loseReply = true
      expect(await increment(client)).toBe(counter)
    }
    expect(failures(events)).toHaveLength(5)
    expect(await counterOf(client)).toBe(5)
  })

  it('goes on in its session when the server is stopped and started again', async () => {
    const service = new Service()
    const first = await listen(service.app.fetch)
    const { client } = await connectTo(undefined, first.url, { random: Math.random })
    cleanups.push(() => client.close())
    await increment(client)
    const { sessionId } = client
    await first.stop()
    const call = increment(client)
    keep(await listen(service.app.fetch, Number(new URL(first.url).port)))
    expect(await call).toBe(2)
    expect(client.sessionId).toBe(sessionId)
  })

  it('goes on at the second URL when the first server dies', async () => {
    const store = createLocalStore({})
    const one = await listen(new Service({ store, instance: 'one' }).app.fetch)
    const two = keep(await listen(new Service({ store, instance: 'two' }).app.fetch))
    const { client, events } = await connectTo(undefined, [one.url, two.url])
    cleanups.push(() => client.close())
    const { sessionId } = client
    const { structuredContent } = await client.callTool({ name: 'increment_counter' })
    expect(structuredContent).toEqual({ counter: 1, instance: 'one' })
    await one.stop()
    const counters = await Promise.all(Array.from({ length: 8 }, () => increment(client)))
    expect(new Set(counters)).toEqual(new Set([2, 3, 4, 5, 6, 7, 8, 9]))
    expect(client.sessionId).toBe(sessionId)
    const failovers = events.filter(({ event }) => event === 'failed_over')
    expect(failovers).toEqual([{ event: 'failed_over', from: one.url, to: two.url }])
  })
})
