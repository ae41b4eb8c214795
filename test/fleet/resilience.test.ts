import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from 'vitest'
import { connect, type Connected } from '../support/client.ts'
import { fetchFrom, startFleet, type Fleet } from '../support/fleet.ts'
import { callTool, until } from '../support/mcp.ts'

const INSTANCES = ['mcp-server-1', 'mcp-server-2', 'mcp-server-3']

/** What stops, dies or hangs, and how sessions go on: with clients that do nothing about it. */
describe('the fleet', () => {
  let fleet: Fleet

  beforeAll(async () => {
    fleet = await startFleet()
  })
  beforeEach(async () => {
    await fleet.allAre('UP')
  })
  afterAll(() => fleet.stop())

  it('serves a session on under its id when its instance is killed', async () => {
    const { call, transport, session } = await begin()
    const holder = await holderOf(call)
    fleet.signal(holder, 'SIGKILL')
    const { counter, instance } = (await call('increment_counter')) ?? {}
    expect(counter).toBe(4)
    expect(instance).not.toBe(holder)
    expect(await call('list_notes')).toMatchObject({ notes: ['first', 'second'] })
    expect(transport.sessionId).toBe(session)
  })

  it('serves a session on under its id when its instance hangs, and after it woke up', async () => {
    const { call, transport, session } = await begin()
    const holder = await holderOf(call)
    await hang(holder)
    const { counter, instance } = (await call('increment_counter')) ?? {}
    expect(counter).toBe(4)
    expect(instance).not.toBe(holder)
    expect(transport.sessionId).toBe(session)

    fleet.signal(holder, 'SIGCONT')
    // It held the session when it fell asleep, and has missed a change.
    const { url = '' } = fleet.map().instances.find(({ id }) => id === holder) ?? {}
    expect(await callTool(fetchFrom(url), session, 'increment_counter')).toEqual({
      counter: 5,
      instance: holder,
    })
    expect(await call('increment_counter')).toMatchObject({ counter: 6 })
    expect(await call('list_notes')).toMatchObject({ notes: ['first', 'second'] })
  })

  it('lets a client that begins anew elsewhere take its state along', async () => {
    const old = await begin()
    const holder = await holderOf(old.call)
    await hang(holder)
    const { call } = await connect(fleet.url)
    const { counter, instance } = (await call('get_counter')) ?? {}
    expect(counter).toBe(0)
    expect(instance).not.toBe(holder)
    expect(await call('resume_session', { old_session_id: old.session })).toEqual({
      status: 'resumed',
      keys_copied: 2,
      instance,
    })
    expect(await call('get_counter')).toMatchObject({ counter: 3 })
    expect(await call('list_notes')).toMatchObject({ notes: ['first', 'second'] })
    expect(await call('increment_counter')).toMatchObject({ counter: 4 })
  })

  it('resumes nothing from a session that nobody knows', async () => {
    const { call } = await connect(fleet.url)
    expect(await call('resume_session', { old_session_id: 'f'.repeat(32) })).toEqual({
      status: 'resumed',
      keys_copied: 0,
      instance: expect.stringMatching(/^mcp-server-[123]$/),
    })
    expect(await call('get_counter')).toMatchObject({ counter: 0 })
  })

  it('loses nothing when all instances are restarted, one by one', async () => {
    const { call } = await begin()
    for (const name of INSTANCES) {
      await restart(name, 'SIGTERM')
      await fleet.allAre('UP')
    }
    expect(await call('increment_counter')).toMatchObject({ counter: 4 })
    expect(await call('list_notes')).toMatchObject({ notes: ['first', 'second'] })
  })

  it('loses nothing when all instances are killed at once', async () => {
    const { call } = await begin()
    await Promise.all(INSTANCES.map((name) => restart(name, 'SIGKILL')))
    await fleet.allAre('UP')
    expect(await call('increment_counter')).toMatchObject({ counter: 4 })
    expect(await call('list_notes')).toMatchObject({ notes: ['first', 'second'] })
  })

  it.each(['mcp-server-2', 'redis', 'haproxy'])(
    'starts %s again within seconds, and sessions live on',
    async (name) => {
      const { call } = await begin()
      const { instances, ...before } = fleet.map()
      const killed = performance.now()
      await restart(name, 'SIGKILL')
      // It listens a moment after it has begun to run.
      await until(
        () => call('get_counter').catch(() => undefined),
        (answer) => answer?.['counter'] === 3,
      )
      expect(performance.now() - killed).toBeLessThan(10_000)
      expect(await call('increment_counter')).toMatchObject({ counter: 4 })
      await fleet.allAre('UP')
      // Where it is to be found has not changed.
      const after = fleet.map()
      expect(after.instances.map(({ url }) => url)).toEqual(instances.map(({ url }) => url))
      expect(after.redis.url).toBe(before.redis.url)
      expect(after.haproxy.url).toBe(before.haproxy.url)
    },
  )

  /** A session with a counter of 3 and two notes. */
  async function begin(): Promise<Connected> {
    const client = await connect(fleet.url)
    for (let n = 0; n < 3; n++) await client.call('increment_counter')
    for (const note of ['first', 'second']) await client.call('add_note', { note })
    return client
  }

  /** Stops `name` until the test ends, and waits until HAProxy has seen it. */
  async function hang(name: string): Promise<void> {
    fleet.signal(name, 'SIGSTOP')
    onTestFinished(() => fleet.signal(name, 'SIGCONT'))
    await until(fleet.servers, (servers) =>
      servers.some((server) => server.name === name && server.status === 'DOWN'),
    )
  }

  /** Ends `name`, and waits until `fleet.json` tells of another process. */
  async function restart(name: string, by: NodeJS.Signals): Promise<void> {
    const before = fleet.pid(name)
    fleet.signal(name, by)
    await until(
      () => Promise.resolve(fleet.pid(name)),
      (pid) => pid !== null && pid !== before,
    )
  }
})

describe('a fleet that is stopped', () => {
  it('leaves no process and no fleet.json, and goes on with its sessions next time', async () => {
    const first = await startFleet()
    const { call, session } = await connect(first.url)
    await call('increment_counter')
    const pids = await pidsOf(first)
    first.signal('supervisor', 'SIGINT')
    await haveEnded(pids)
    expect(existsSync(join(first.folder, 'fleet.json'))).toBe(false)

    const second = await startFleet({ FLEET_DIR: first.folder })
    const again = await connect(second.url, session)
    expect(await again.call('increment_counter')).toMatchObject({ counter: 2 })
    expect(await second.stop()).toBe(0)
  })

  // Both the terminal and npm tell it of Ctrl-C where `sh` steps aside for what it runs.
  it('leaves no process when it is told twice', { timeout: 15_000 }, async () => {
    const fleet = await startFleet()
    const pids = await pidsOf(fleet)
    fleet.signal('supervisor', 'SIGINT')
    // By then it has taken in the first one.
    await until(
      () => Promise.resolve(pids),
      (all) => !all.every(isRunning),
    )
    fleet.signal('supervisor', 'SIGINT')
    await haveEnded(pids)
  })
})

/** All processes that a fleet is made of, which end with the test at the latest. HAProxy is two. */
async function pidsOf(fleet: Fleet): Promise<number[]> {
  const names = ['supervisor', 'haproxy', 'redis', ...INSTANCES]
  const [, worker] = /^Pid: (\d+)$/m.exec(await fleet.admin('show info')) ?? []
  const pids = [...names.map((name) => fleet.pid(name)), worker].map(Number)
  onTestFinished(() => {
    for (const pid of pids.filter(isRunning)) process.kill(pid, 'SIGKILL')
  })
  return pids
}

async function haveEnded(pids: readonly number[]): Promise<void> {
  await until(
    () => Promise.resolve(pids.filter(isRunning)),
    (running) => running.length === 0,
  )
}

async function holderOf(call: Connected['call']): Promise<string> {
  return String((await call('get_server_info'))?.['instance'])
}

function isRunning(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch {
    return false
  }
}
