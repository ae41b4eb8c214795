/** Who listens in 2026-07-28, and changes that other instances make. */
import { createClient, type RedisClientType } from '@redis/client'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { overSockets, type Send } from '../failover/sockets.ts'
import { listenTo, summaryOf, summaryUri, type Ear } from '../failover/summaries.ts'
import { startBus } from '../support/bus.ts'
import { callTool, endSession, openSession, until } from '../support/mcp.ts'
import { startNode, type NodeInstance } from '../support/node.ts'
import { hearersOf, startRedis, type RedisServer } from '../support/redis.ts'
import { openHandle, runTool } from '../support/stateless.ts'

const SESSION_SECRET = 'the same for all of them'

let server: RedisServer
let redis: RedisClientType

beforeAll(async () => {
  server = await startRedis()
  redis = createClient({ url: server.url })
  await redis.connect()
})
afterAll(async () => {
  redis.destroy()
  await server.stop()
})

describe('who listens at one instance', () => {
  it('is told of changes at another one, by clients of either revision', async () => {
    const [a, b] = await Promise.all([instance('a'), instance('b')])
    const session = await openSession(b.fetch)
    const ear = await listening(a.send, session)
    const began = performance.now()
    await callTool(b.fetch, session, 'increment_counter')
    await hears(ear, a.send, { session, counter: 1 })
    await runTool(b.fetch, 'increment_counter', { session })
    await hears(ear, a.send, { session, counter: 2 })
    await runTool(a.fetch, 'increment_counter', { session })
    await hears(ear, a.send, { session, counter: 3 })
    console.log(`Three changes were told in ${Math.round(performance.now() - began)} ms`)
  })

  it('is told when the holder has died, and another one goes on', async () => {
    const [a, b, c] = await Promise.all([instance('a'), instance('b'), instance('c')])
    const session = await openHandle(b.fetch)
    const ear = await listening(a.send, session)
    await runTool(b.fetch, 'increment_counter', { session })
    await hears(ear, a.send, { session, counter: 1 })
    await b.kill('SIGKILL')
    await runTool(c.fetch, 'increment_counter', { session })
    await hears(ear, a.send, { session, counter: 2 })
  })

  it('is let go when its instance stops, which does not wait for it', async () => {
    const a = await instance('a')
    const ear = await listening(a.send, await openHandle(a.fetch))
    const began = performance.now()
    expect(await a.kill('SIGTERM')).toBe(0)
    // STOP_SECONDS is 30.
    expect(performance.now() - began).toBeLessThan(10_000)
    await expect(ear.next()).rejects.toThrow('the stream has ended')
  })

  it('is let go when the session has ended, at whatever instance', async () => {
    const [a, b] = await Promise.all([instance('a'), instance('b')])
    for (const { fetch } of [a, b]) {
      const session = await openSession(b.fetch)
      const ear = await listening(a.send, session)
      await endSession(fetch, session)
      await expect(ear.next()).rejects.toThrow('the stream has ended')
    }
  })

  it('is told of what it has missed, and of later changes, when news come through again', async () => {
    const bus = await startBus(server.url)
    onTestFinished(() => bus.stop())
    const [a, b] = await Promise.all([instance('a', bus.url), instance('b')])
    const session = await openHandle(b.fetch)
    const ear = await listening(a.send, session)
    await runTool(b.fetch, 'increment_counter', { session })
    await hears(ear, a.send, { session, counter: 1 })
    bus.cut()
    await until(
      () => Promise.resolve(bus.refused()),
      (count) => count > 0,
    )
    await runTool(b.fetch, 'increment_counter', { session })
    bus.mend()
    await hears(ear, a.send, { session, counter: 2 })
    await runTool(b.fetch, 'increment_counter', { session })
    await hears(ear, a.send, { session, counter: 3 })
  })

  it('goes on when another one that listens there to the same has gone', async () => {
    const [a, b] = await Promise.all([instance('a'), instance('b')])
    const session = await openHandle(b.fetch)
    const [first, second] = [await listening(a.send, session), await listening(a.send, session)]
    await first.hangUp()
    await runTool(b.fetch, 'increment_counter', { session })
    await hears(second, a.send, { session, counter: 1 })
  })

  it('gets none acknowledged but what is there', async () => {
    const [a, foreign] = await Promise.all([
      instance('a'),
      startNode({ REDIS_URL: server.url, SESSION_SECRET: 'another one than all others' }),
    ])
    onTestFinished(async () => void (await foreign.kill('SIGKILL')))
    const own = summaryUri(await openHandle(a.fetch))
    const others = [await openHandle(foreign.fetch), 'A'.repeat(44), ''].map(summaryUri)
    const uris = [own, ...others, 'resource://nothing', 'file:///etc/passwd']
    const ear = await listenTo(a.send, uris)
    expect(ear.acknowledged).toEqual([own])
    await ear.hangUp()
  })
})

/** Listens to a session's summary, and waits until its instance hears of the session. */
async function listening(send: Send, session: string): Promise<Ear> {
  const ear = await listenTo(send, [summaryUri(session)])
  onTestFinished(() => ear.hangUp())
  expect(ear.acknowledged).toEqual([summaryUri(session)])
  await until(
    () => hearersOf(redis, session),
    (count) => count > 0,
  )
  return ear
}

/** Is told until it finds the counter so: it may be told more often than there are changes. */
async function hears(
  ear: Ear,
  send: Send,
  { session, counter }: { session: string; counter: number },
): Promise<void> {
  for (;;) {
    expect(await ear.next()).toBe(summaryUri(session))
    if ((await summaryOf(send, session))['counter'] === counter) return
  }
}

async function instance(
  id: string,
  url = server.url,
): Promise<NodeInstance & { readonly send: Send }> {
  const started = await startNode({ REDIS_URL: url, INSTANCE_ID: id, SESSION_SECRET })
  onTestFinished(async () => void (await started.kill('SIGKILL')))
  return { ...started, send: overSockets(`${started.url}/mcp`, 'closes') }
}
