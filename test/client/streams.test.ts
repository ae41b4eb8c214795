import { describe, expect, it } from 'vitest'
import type { ResilientClient } from '../../client/resilient-client.ts'
import { systemClock, type Clock } from '../../mcp/session/clock.ts'
import { isStream, until } from '../support/mcp.ts'
import { aWhile, connectTo, counterOf, cutAfter, failures, Service } from './support.ts'

/** A server whose tools take a twentieth of their time. */
const hasty: Clock = {
  now: () => systemClock.now(),
  timer: (ms, fire) => systemClock.timer(ms / 20, fire),
}

const LEVELS = ['info', 'debug', 'debug', 'debug', 'debug', 'info', 'info']

/** Calls `analyze_data` with all there is to hear, and checks that each came once, in order. */
async function analyze(client: ResilientClient): Promise<void> {
  const logs: unknown[] = []
  const progress: unknown[] = []
  client.setNotificationHandler(
    'notifications/message',
    ({ params }) => void logs.push(params.level),
  )
  const { structuredContent } = await client.callTool(
    { name: 'analyze_data', arguments: { num_items: 3 } },
    { onprogress: (step) => void progress.push(step.progress) },
  )
  expect(structuredContent).toMatchObject({ items_processed: 3, total_score: 9 })
  expect(logs).toEqual(LEVELS)
  expect(progress).toEqual([0, 1, 2, 3])
}

/** Cuts the streams of calls, each after as many events as are next in `cuts`. */
function cutStreams(service: Service, cuts: number[], how: 'breaks' | 'ends' = 'breaks'): void {
  service.handle = async (seen, forward) => {
    const response = await forward()
    const isCall = seen.tool !== undefined || seen.lastEventId !== null
    const count = isCall && isStream(response) ? cuts.shift() : undefined
    return count === undefined ? response : cutAfter(count, response, how)
  }
}

/** How the SDK resumes streams of its own accord. */
const AT_ONCE = {
  initialReconnectionDelay: 1,
  maxReconnectionDelay: 1,
  reconnectionDelayGrowFactor: 1,
  maxRetries: 2,
}

const resumed = (service: Service): (string | null)[] =>
  service.seen.filter(({ lastEventId }) => lastEventId !== null).map((seen) => seen.lastEventId)

describe('the stream of a call', () => {
  it.each([1, 2, 3, 6, 10])('goes on when it breaks after %i events', async (count) => {
    const service = new Service({ clock: hasty })
    const { client, events } = await connectTo(service)
    cutStreams(service, [count])
    await analyze(client)
    expect(service.calls('analyze_data')).toHaveLength(1)
    const [lastEventId] = resumed(service)
    expect(events).toContainEqual({ event: 'stream_resumed', method: 'tools/call', lastEventId })
    await client.close()
  })

  it('goes on when it breaks again and again', async () => {
    const service = new Service({ clock: hasty })
    const { client, events } = await connectTo(service)
    cutStreams(service, [1, 2, 2, 2, 2, 2, 2])
    await analyze(client)
    // Each time it had come further, so that waits stayed short.
    expect(failures(events).map(({ attempt }) => attempt)).toEqual([1, 1, 1, 1, 1, 1, 1])
    expect(resumed(service)).toHaveLength(7)
    await client.close()
  })

  it('goes on when the server ends it before the reply', async () => {
    const service = new Service({ clock: hasty })
    const { client } = await connectTo(service)
    cutStreams(service, [4], 'ends')
    await analyze(client)
    expect(resumed(service)).toHaveLength(1)
    await client.close()
  })

  it('goes on under the same key when it breaks before any event id', async () => {
    const service = new Service({ clock: hasty })
    const { client } = await connectTo(service)
    cutStreams(service, [0])
    await analyze(client)
    const calls = service.calls('analyze_data')
    expect(calls).toHaveLength(2)
    expect(calls[0]?.key).toBe(calls[1]?.key)
    expect(resumed(service)).toEqual([])
    await client.close()
  })

  it('keeps its place when a resumed stream brings nothing', async () => {
    const service = new Service({ clock: hasty })
    const { client } = await connectTo(service)
    cutStreams(service, [3, 0, 0], 'ends')
    await analyze(client)
    const ids = resumed(service)
    expect(ids).toHaveLength(3)
    expect(new Set(ids).size).toBe(1)
    await client.close()
  })

  it('says nothing twice when the server repeats itself', async () => {
    const service = new Service({ clock: hasty })
    const { client } = await connectTo(service)
    const first = new Array<string>()
    cutStreams(service, [1, 4, 6])
    const { handle } = service
    service.handle = (seen, forward) => {
      const { lastEventId, request } = seen
      if (lastEventId === null) return handle(seen, forward)
      first.push(lastEventId)
      const headers = new Headers(request.headers)
      headers.set('last-event-id', first[0] ?? '')
      return handle(seen, () => forward(new Request(request, { headers })))
    }
    await analyze(client)
    expect(new Set(first).size).toBe(3)
    await client.close()
  })

  it('is had by sending the call again where the server cannot resume', async () => {
    const service = new Service({ clock: hasty })
    const { client, events } = await connectTo(service)
    cutStreams(service, [5])
    const { handle } = service
    service.handle = (seen, forward) =>
      seen.lastEventId === null
        ? handle(seen, forward)
        : Promise.resolve(new Response('unknown', { status: 400 }))
    await analyze(client)
    expect(service.calls('analyze_data')).toHaveLength(2)
    const resume = { event: 'stream_resumed', method: 'tools/call', lastEventId: undefined }
    expect(events).toContainEqual(resume)
    await client.close()
  })

  it('goes on when it breaks later than the deadline for an answer', async () => {
    const service = new Service({ clock: hasty })
    const { client } = await connectTo(service, undefined, { deadlineMs: 30 })
    cutStreams(service, [10])
    await analyze(client)
    expect(resumed(service)).toHaveLength(1)
    await client.close()
  })

  it('may go on as a plain answer', async () => {
    const service = new Service({ clock: hasty })
    const { client } = await connectTo(service)
    cutStreams(service, [0])
    const { handle } = service
    service.handle = async (seen, forward) => {
      if (service.calls('analyze_data').length < 2) return handle(seen, forward)
      const result = { content: [], structuredContent: { items_processed: 3 } }
      return Response.json({ jsonrpc: '2.0', id: seen.id, result })
    }
    const { structuredContent } = await client.callTool({
      name: 'analyze_data',
      arguments: { num_items: 3 },
    })
    expect(structuredContent).toEqual({ items_processed: 3 })
    await client.close()
  })

  it('is left to the SDK when it takes another token to resume it', async () => {
    const service = new Service({ clock: hasty })
    let token = 'old'
    const { client } = await connectTo(service, undefined, {
      transport: {
        reconnectionOptions: AT_ONCE,
        authProvider: {
          token: async () => token,
          onUnauthorized: async () => void (token = 'new'),
        },
      },
    })
    cutStreams(service, [5])
    const { handle } = service
    service.handle = async (seen, forward) =>
      seen.lastEventId !== null && seen.request.headers.get('authorization') !== 'Bearer new'
        ? new Response(null, { status: 401 })
        : handle(seen, forward)
    await analyze(client)
    expect(service.calls('analyze_data')).toHaveLength(1)
    await client.close()
  })

  it('waits before it resumes as long as the server asks', async () => {
    const service = new Service({ clock: hasty, env: { STREAM_RETRY_MS: '70' } })
    const { client, events } = await connectTo(service)
    cutStreams(service, [2])
    await analyze(client)
    expect(failures(events)).toMatchObject([{ waitMs: 70, why: 'terminated' }])
    await client.close()
  })

  it('fails its call at the deadline when the server is gone', async () => {
    const service = new Service({ clock: hasty })
    const { client } = await connectTo(service, undefined, {
      deadlineMs: 80,
      random: () => 1,
      transport: { reconnectionOptions: AT_ONCE },
    })
    cutStreams(service, [3])
    const { handle } = service
    service.handle = (seen, forward) =>
      seen.lastEventId === null ? handle(seen, forward) : Promise.reject(new TypeError('refused'))
    await expect(analyze(client)).rejects.toMatchObject({
      code: 'deadline_exceeded',
      message: expect.stringContaining('last cause: refused from http://localhost/mcp'),
    })
    // The SDK does not go on with it behind our back.
    const { length } = resumed(service)
    service.handle = handle
    expect(await counterOf(client)).toBe(0)
    await aWhile()
    expect(resumed(service)).toHaveLength(length)
    await client.close()
  })

  it('fails its call when the server does not take it up again', async () => {
    const service = new Service({ clock: hasty })
    const { client } = await connectTo(service)
    cutStreams(service, [3])
    const { handle } = service
    service.handle = (seen, forward) =>
      seen.tool !== undefined && service.calls('analyze_data').length === 1
        ? handle(seen, forward)
        : Promise.resolve(new Response('no', { status: 500 }))
    await expect(analyze(client)).rejects.toMatchObject({
      code: 'call_lost',
      message: 'Cannot finish tools/call: HTTP 500',
    })
    await client.close()
  })
})

describe('the standalone stream', () => {
  it('goes on behind its last event, each event once', async () => {
    const service = new Service({ clock: hasty })
    const { client } = await connectTo(service)
    let cuts = 3
    service.handle = async (seen, forward) => {
      const response = await forward()
      return seen.method === 'GET' && cuts-- > 0 ? cutAfter(2, response, 'breaks') : response
    }
    await until(async () => service.seen.some(({ method }) => method === 'GET'), Boolean)
    const uri = `resource://session/${client.sessionId}/summary`
    let updates = 0
    client.setNotificationHandler('notifications/resources/updated', () => void (updates += 1))
    await client.subscribeResource({ uri })
    for (const expected of [1, 2, 3, 4]) {
      await client.callTool({ name: 'increment_counter', arguments: {} })
      await until(
        async () => updates,
        (count) => count >= expected,
      )
    }
    expect(updates).toBe(4)
    await client.close()
  })

  it('outlives an outage that is longer than the deadline of a call', async () => {
    const service = new Service()
    const back = Promise.withResolvers<void>()
    const deadlineMs = 50
    let since: number | undefined
    service.handle = async (seen, forward) => {
      if (seen.method !== 'GET' || seen.lastEventId === null) {
        const response = await forward()
        return seen.method === 'GET' ? cutAfter(1, response, 'breaks') : response
      }
      since ??= performance.now()
      if (performance.now() - since < 2 * deadlineMs) return new Response(null, { status: 503 })
      back.resolve()
      return forward()
    }
    const { client } = await connectTo(service, undefined, { deadlineMs, random: Math.random })
    const errors: Error[] = []
    client.onerror = (error) => void errors.push(error)
    await back.promise
    expect(errors).toEqual([])
    await client.close()
  })
})
