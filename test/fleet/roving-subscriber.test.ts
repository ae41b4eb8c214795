import { createClient } from '@redis/client'
import { afterAll, beforeAll, expect, it } from 'vitest'
import type { Address } from '../../haproxy-compat/redis-place.ts'
import { RovingSubscriber } from '../../haproxy-compat/roving-subscriber.ts'
import { clientOf, startRedis, type RedisServer } from '../support/redis.ts'
import { until } from '../support/mcp.ts'

let servers: RedisServer[] = []

beforeAll(async () => {
  servers = await Promise.all([startRedis(), startRedis()])
})
afterAll(() => Promise.all(servers.map((server) => server.stop())))

it('listens where a channel is told, though no connection was lost', async () => {
  const [one, other] = await Promise.all(servers.map((server) => clientOf(server.url)))
  const [here, there] = servers.map(({ url }) => addressOf(url))
  if (!one || !other || !here || !there) throw new Error('There are no two servers')
  let master = here
  const subscriber = new RovingSubscriber({
    locate: async () => master,
    connect: (socket) => createClient({ socket: { ...socket, reconnectStrategy: false } }),
  })
  let readied = 0
  subscriber.on('ready', () => readied++)
  const heard: string[] = []
  await subscriber.sSubscribe('news', (message) => heard.push(message))
  const told = async (by: typeof one, message: string): Promise<void> => {
    await by.sPublish('news', message)
    await until(
      async () => heard,
      (all) => all.includes(message),
    )
  }
  await told(one, 'here')
  expect(readied).toBe(0)
  master = there
  await until(
    async () => readied,
    (times) => times === 1,
  )
  await told(other, 'there')
  await until(
    () => one.sPublish('news', 'to nobody'),
    (hearers) => hearers === 0,
  )
  subscriber.destroy()
  one.destroy()
  other.destroy()
})

it('hears a channel that it looks after while it subscribes', async () => {
  const [{ url } = { url: '' }] = servers
  const teller = await clientOf(url)
  const address = addressOf(url)
  const client = createClient({ url, socket: { reconnectStrategy: false } })
  const both = Promise.withResolvers<void>()
  let asked = 0
  const subscriber = new RovingSubscriber({
    // Who subscribes and who mends know at once; the look between them does not wait.
    async locate() {
      asked += 1
      if (asked === 3) both.resolve()
      if (asked !== 2) await both.promise
      return address
    },
    connect: () => client,
  })
  const mended = Promise.withResolvers<void>()
  subscriber.on('ready', mended.resolve)
  const heard: string[] = []
  await subscriber.sSubscribe('news', (message) => heard.push(message))
  await mended.promise
  // Whatever it has asked of Redis is done now.
  await client.ping()
  expect(await teller.sPublish('news', 'here')).toBe(1)
  await until(
    async () => heard,
    (all) => all.includes('here'),
  )
  subscriber.destroy()
  teller.destroy()
})

function addressOf(url: string): Address {
  const { hostname, port } = new URL(url)
  return { host: hostname, port: Number(port) }
}
