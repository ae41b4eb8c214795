import { once } from 'node:events'
import { createServer, type AddressInfo } from 'node:net'
import { createClient } from '@redis/client'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { createNodeServer } from '../../haproxy-compat/serve-node.ts'
import { createSessionIds } from '../../haproxy-compat/session-ids.ts'
import { tools } from '../../mcp/tools/index.ts'
import { fetchFrom } from '../support/fleet.ts'
import { spawnNode, startNode } from '../support/node.ts'
import { freePort } from '../support/ports.ts'
import {
  BASE,
  callTool,
  collect,
  openSession,
  readEvents,
  send,
  toolCall,
  until,
} from '../support/mcp.ts'
import { clientOf, startRedis, type RedisServer } from '../support/redis.ts'

describe('session ids of the fleet', () => {
  const ids = createSessionIds(['a secret of some length'])

  it('are 44 characters, never twice the same', () => {
    const minted = new Set(Array.from({ length: 100_000 }, () => ids.mint()))
    expect(minted.size).toBe(100_000)
    for (const id of minted) if (!/^[A-Za-z0-9_-]{44}$/.test(id)) throw new Error(`"${id}"`)
  })

  it('are refused with any one bit changed, and under another secret', () => {
    const id = ids.mint()
    expect(ids.isMinted(id)).toBe(true)
    const bytes = Buffer.from(id, 'base64url')
    for (let bit = 0; bit < bytes.length * 8; bit++) {
      const changed = Buffer.from(bytes)
      changed[bit >> 3] = (changed[bit >> 3] ?? 0) ^ (1 << (bit & 7))
      expect(ids.isMinted(changed.toString('base64url'))).toBe(false)
    }
    expect(createSessionIds(['another one of some length']).isMinted(id)).toBe(false)
    for (const forged of ['', '*', `${id}A`, id.slice(1), `${id.slice(0, 43)}=`]) {
      expect(ids.isMinted(forged)).toBe(false)
    }
  })

  it('are good while their secret is one of those that check', () => {
    const rotated = createSessionIds(['a newer secret of length', 'a secret of some length'])
    expect(rotated.isMinted(ids.mint())).toBe(true)
    expect(ids.isMinted(rotated.mint())).toBe(false)
  })
})

describe('one Node instance', () => {
  it('serves sessions from memory, and drains when it is told to stop', async () => {
    const instance = await startNode({ INSTANCE_ID: 'solo' })
    const session = await openSession(instance.fetch)
    expect(await callTool(instance.fetch, session, 'increment_counter')).toEqual({
      counter: 1,
      instance: 'solo',
    })
    const info = (): Promise<Record<string, unknown>> =>
      callTool(instance.fetch, session, 'get_server_info')
    expect(await until(info, ({ sessions }) => sessions === 1)).toBeDefined()
    const call = send(instance.fetch, session, toolCall('analyze_data', { num_items: 1 }))
    const stream = readEvents(await call)
    await stream.next()
    const stopped = instance.kill('SIGTERM')
    const events = await collect(stream)
    expect(events.at(-1)?.data).toContain('"items_processed":1')
    expect(await stopped).toBe(0)
  })

  it('lives on, and says so, when nobody handles a rejection', async () => {
    const instance = spawnNode({}, 'test/fleet/careless-server.ts')
    const url = await instance.url
    onTestFinished(async () => void (await instance.kill('SIGKILL')))
    const careless = fetchFrom(`${url}/mcp`)
    const session = await openSession(careless)
    expect(await callTool(careless, session, 'leave')).toEqual({})
    await until(
      async () => instance.output(),
      (text) => text.includes('Nobody handled: Error: Nobody looks at this'),
    )
    expect(await callTool(careless, session, 'leave')).toEqual({})
  })

  it('says which settings it can not use', async () => {
    await expect(startNode({ PORT: 'x', REDIS_URL: 'nowhere' })).rejects.toThrow(
      /Cannot use settings:\n(.*\n)*REDIS_URL.*\nPORT/,
    )
  })
})

describe('Node instances over one Redis', () => {
  let redis: RedisServer
  const env = (instance: string): Record<string, string> => ({
    REDIS_URL: redis.url,
    INSTANCE_ID: instance,
    SESSION_SECRET: 'the same for all of them',
  })

  beforeAll(async () => {
    redis = await startRedis()
  })
  afterAll(() => redis.stop())

  it('serve a session on after the one that held it was killed', async () => {
    const [a, b] = await Promise.all([
      startNode(env('mcp-server-1')),
      startNode(env('mcp-server-2')),
    ])
    const session = await openSession(a.fetch)
    for (let n = 1; n <= 3; n++) await callTool(a.fetch, session, 'increment_counter')
    await a.kill('SIGKILL')
    expect(await callTool(b.fetch, session, 'increment_counter')).toEqual({
      counter: 4,
      instance: 'mcp-server-2',
    })
    expect(await callTool(b.fetch, session, 'get_server_info')).toMatchObject({ sessions: 1 })
    await b.kill('SIGKILL')
  })

  it('ask Redis nothing about ids that they did not mint', async () => {
    const instance = await startNode(env('mcp-server-1'))
    onTestFinished(async () => void (await instance.kill('SIGKILL')))
    const session = await openSession(instance.fetch)
    const flipped = session[20] === 'A' ? 'B' : 'A'
    const ids = [
      createSessionIds(['some other secret here']).mint(),
      '*',
      'a'.repeat(44),
      `${session.slice(0, 20)}${flipped}${session.slice(21)}`,
    ]
    const { mark, seen } = await watchRedis(redis.url)
    await mark('before')
    const statuses: number[] = []
    for (const id of ids) {
      const response = await send(instance.fetch, id, toolCall('increment_counter'))
      await response.text()
      statuses.push(response.status)
    }
    await mark('after')
    // Redis hears an instance in its order: what it asked before its next beat has come with that.
    const isBeat = (line: string): boolean => line.includes('"mcp:leases"')
    await until(
      async () => seen.slice(seen.findIndex((line) => line.includes('"after"'))),
      (lines) => lines.some(isBeat),
    )
    const between = seen.slice(seen.findIndex((line) => line.includes('"before"')) + 1)
    // A report and a look whether Redis is there are asked in their own time; a mark is a PING too.
    const isOwn = (line: string): boolean => /"mcp:\{board\}:|"PING"/.test(line)
    expect(between.filter((line) => !isBeat(line) && !isOwn(line))).toEqual([])
    expect(statuses).toEqual(ids.map(() => 404))
  })

  it('say why they wait for it, and serve when it is there', async () => {
    const port = await freePort()
    const starting = spawnNode({ ...env('mcp-server-1'), REDIS_URL: `redis://127.0.0.1:${port}` })
    await until(
      async () => starting.output(),
      (text) => text.includes('"store_awaited"'),
    )
    expect(starting.output()).toMatch(/"event":"store_awaited","why":"connect ECONNREFUSED/)
    const late = await startRedis(port)
    onTestFinished(() => late.stop())
    await starting.url
    expect(starting.output().match(/store_awaited/g)).toHaveLength(1)
    expect(await starting.kill('SIGTERM')).toBe(0)
  })

  it('end at once when they are told to while they wait for it', async () => {
    const waiting = spawnNode({ ...env('mcp-server-1'), REDIS_URL: 'redis://127.0.0.1:1' })
    await until(
      async () => waiting.output(),
      (text) => text.includes('"store_awaited"'),
    )
    expect(await waiting.kill('SIGTERM')).toBe(0)
  })

  it('leave nothing behind where they can not listen', async () => {
    const other = createServer().listen(0, '127.0.0.1')
    onTestFinished(() => void other.close())
    await once(other, 'listening')
    const PORT = String((other.address() as AddressInfo).port)
    const settings = { ...env('never'), PORT }
    const client = await clientOf(redis.url)
    onTestFinished(() => client.destroy())
    await client.zAdd('mcp:leases', { score: 1, value: 'a session/its stream' })
    const server = createNodeServer({ ...tools, settings, write: () => undefined })
    await expect(server).rejects.toThrow('EADDRINUSE')
    // What was on its way is over by now.
    expect(await client.ping()).toBe('PONG')
    expect(await client.zScore('mcp:leases', 'a session/its stream')).toBe(1)
    expect(await client.hExists('mcp:{board}:instances', 'never')).toBe(0)
    expect(await client.clientList()).toHaveLength(1)
  })

  it('are not healthy without it, and are again when it is back', async () => {
    const lonely = await startRedis()
    onTestFinished(() => lonely.stop())
    const instance = await startNode({ ...env('mcp-server-1'), REDIS_URL: lonely.url })
    const session = await openSession(instance.fetch)
    await lonely.stop()
    const health = async (): Promise<number> => {
      const response = await instance.fetch(new Request(`${BASE}/health`))
      await response.text()
      return response.status
    }
    await until(health, (status) => status === 503)
    const refused = await send(instance.fetch, session, toolCall('increment_counter'))
    expect(refused.status).toBe(503)
    expect(refused.headers.get('retry-after')).toBe('1')
    await instance.kill('SIGKILL')
  })
})

interface RedisWatch {
  /** The commands that have come so far, as MONITOR tells them; without those of scripts. */
  readonly seen: readonly string[]
  /** Puts a mark among them, and waits until it is seen. */
  readonly mark: (text: string) => Promise<void>
}

async function watchRedis(url: string): Promise<RedisWatch> {
  const [monitor, marker] = [createClient({ url }), createClient({ url })]
  for (const client of [monitor, marker]) {
    await client.connect()
    onTestFinished(() => client.destroy())
  }
  const seen: string[] = []
  await monitor.monitor((line) => {
    if (!line.includes(' lua] ')) seen.push(line)
  })
  return {
    seen,
    async mark(text) {
      await marker.ping(text)
      await until(
        async () => seen,
        (lines) => lines.some((line) => line.includes(`"${text}"`)),
      )
    },
  }
}
