/** The fleet in containers, as its one command starts it: `npm run test:compose`. Needs a Docker engine. */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { callTool, openSession, until, type Fetch } from '../support/mcp.ts'

const SERVICES = ['haproxy', 'mcp-server-1', 'mcp-server-2', 'mcp-server-3', 'redis']
const INSTANCES = SERVICES.filter((service) => service.startsWith('mcp-server'))

const PASSWORD = '/run/holdfast/redis-password'

const viaHaproxy: Fetch = (request) =>
  fetch(new Request(`http://localhost:8080${new URL(request.url).pathname}`, request))

describe('the fleet in containers', () => {
  beforeAll(async () => {
    await compose('down', '-v')
    await up()
  })

  afterAll(async () => {
    await compose('down', '-v', '--rmi', 'local')
  })

  it('has five containers, all healthy', async () => {
    expect(await until(healthy, ({ length }) => length === 5)).toEqual(SERVICES)
  })

  it('runs nobody as root, and lets nobody write where it need not', async () => {
    for (const service of SERVICES) {
      expect(Number(await compose('exec', '-T', service, 'id', '-u'))).toBeGreaterThan(0)
      const write = compose('exec', '-T', service, 'touch', '/usr/local/bin/anything')
      await expect(write).rejects.toThrow('Read-only file system')
    }
  })

  it('lets nobody into Redis without the password, and the instances do what they have to', async () => {
    const redis = (...command: string[]) =>
      compose('exec', '-T', 'redis', 'redis-cli', '-e', ...command)
    await expect(redis('ping')).rejects.toThrow('NOAUTH')
    await expect(redis('--user', 'default', '--pass', 'wrong', 'ping')).rejects.toThrow('WRONGPASS')
    const password = (await compose('exec', '-T', 'mcp-server-1', 'cat', PASSWORD)).trim()
    expect(password).toMatch(/^[0-9a-f]{64}$/)
    const asInstance = (...command: string[]) =>
      redis('--no-auth-warning', '--user', 'holdfast', '--pass', password, ...command)
    expect(await asInstance('ping')).toBe('PONG\n')
    for (const command of [
      ['keys', '*'],
      ['flushall'],
      ['acl', 'list'],
      ['hget', 'other', 'key'],
    ]) {
      await expect(asInstance(...command)).rejects.toThrow('NOPERM')
    }
    const overwrite = compose('exec', '-T', 'mcp-server-1', 'sh', '-c', `echo x >${PASSWORD}`)
    await expect(overwrite).rejects.toThrow('Read-only file system')
  })

  it('goes on with a session whose instance is killed, and takes the instance back', async () => {
    const session = await openSession(viaHaproxy)
    const increment = (): Promise<Record<string, unknown>> =>
      callTool(viaHaproxy, session, 'increment_counter')
    const { instance } = await increment()
    expect(await increment()).toEqual({ counter: 2, instance })

    await compose('kill', String(instance))
    const killed = performance.now()
    const next = await increment()
    console.log(`carried on ${Math.round(performance.now() - killed)} ms after "kill" was done`)
    expect(next['counter']).toBe(3)
    expect(next['instance']).not.toBe(instance)
    expect((await increment())['counter']).toBe(4)
    expect(await healthy()).toEqual(SERVICES.filter((service) => service !== instance))

    await compose('start', String(instance))
    await until(healthy, ({ length }) => length === 5)
    expect(await until(routable, ({ length }) => length === 3)).toEqual(INSTANCES)
    expect((await increment())['counter']).toBe(5)
  })

  it('finds an instance that comes back at another address', async () => {
    const session = await openSession(viaHaproxy)
    const { instance } = await callTool(viaHaproxy, session, 'increment_counter')
    const name = String(instance)
    const before = await addressOf(name)
    await compose('rm', '-sf', name)
    // Somebody else gets the address that is free now.
    const other = await compose('run', '-d', '--no-deps', '--entrypoint', 'sleep', 'haproxy', '600')
    await up()
    await promisify(execFile)('docker', ['rm', '-f', other.trim()])
    expect(await addressOf(name)).not.toBe(before)
    expect(await until(routable, ({ length }) => length === 3)).toEqual(INSTANCES)
    expect((await callTool(viaHaproxy, session, 'increment_counter'))['counter']).toBe(2)
  })

  it('keeps sessions while all of it is down, and up again', async () => {
    const session = await openSession(viaHaproxy)
    await callTool(viaHaproxy, session, 'increment_counter')
    await compose('down')
    await up()
    expect((await callTool(viaHaproxy, session, 'increment_counter'))['counter']).toBe(2)
  })

  it('keeps them while Redis is killed, and started again', async () => {
    const session = await openSession(viaHaproxy)
    await callTool(viaHaproxy, session, 'increment_counter')
    await compose('kill', 'redis')
    await compose('start', 'redis')
    await until(routable, ({ length }) => length === 3)
    expect((await callTool(viaHaproxy, session, 'increment_counter'))['counter']).toBe(2)
  })

  it('shows what it does on the stats page', async () => {
    const page = await fetch('http://localhost:8404/stats')
    expect(page.status).toBe(200)
    const text = await page.text()
    for (const instance of INSTANCES) expect(text).toContain(instance)
  })
})

/** As the README says it, but under a name of its own: another fleet's containers and data are left alone. */
async function up(): Promise<void> {
  await compose('up', '-d', '--build')
  await until(healthy, (services) => services.includes('haproxy'))
}

async function compose(...args: string[]): Promise<string> {
  const project = ['compose', '-p', 'holdfast-test', '-f', 'haproxy-compat/compose.yaml']
  const env = { ...process.env, SESSION_SECRET: '' }
  const { stdout } = await promisify(execFile)('docker', [...project, ...args], { env })
  return stdout
}

async function healthy(): Promise<string[]> {
  const format = '{{.Service}} {{.Health}}'
  const lines = (await compose('ps', '--format', format)).split('\n')
  return lines.flatMap((line) => /^(\S+) healthy$/.exec(line)?.[1] ?? []).toSorted()
}

/** The instances that HAProxy sends calls to. */
async function routable(): Promise<string[]> {
  const table = await (await fetch('http://localhost:8404/stats;csv')).text()
  const lines = table.split('\n').filter((line) => /^mcp,mcp-server-\d,.*,UP,/.test(line))
  return lines.flatMap((line) => line.split(',')[1] ?? []).toSorted()
}

async function addressOf(instance: string): Promise<string> {
  return compose('exec', '-T', 'haproxy', 'getent', 'hosts', instance)
}
