import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { describe, expect, it, onTestFinished } from 'vitest'
import { OFFSETS, startFleet, type Fleet } from '../support/fleet.ts'
import { callTool, openSession, until } from '../support/mcp.ts'
import { freeBase, isFree } from '../support/ports.ts'

describe('a fleet that can not start', () => {
  it('says in one line that a port is taken', async () => {
    const { fleet, base } = await begin()
    const said = await refusal({ FLEET_PORT_BASE: String(base) })
    expect(said).toMatch(/^Cannot start fleet: port \d+ is taken.*\n$/)
    expect(said).toContain(`port ${base + 80} `)
    expect(await fleet.servers()).toHaveLength(3)
  })

  it('leaves the folder of one that runs alone, whatever its ports', async () => {
    const { fleet, base } = await begin()
    const map = fleet.map()
    for (const port of [base, await freeBase(OFFSETS)]) {
      const said = await refusal({ FLEET_PORT_BASE: String(port), FLEET_DIR: fleet.folder })
      expect(said).toMatch(/^Cannot start fleet: one runs in .*\n$/)
      expect(said).toContain(`(kill ${fleet.pid('supervisor')})`)
    }
    expect(fleet.map()).toEqual(map)
  })

  it('is not kept from it by the file of one whose machine has gone', async () => {
    const folder = newFolder()
    const base = await freeBase(OFFSETS)
    const one = (port: number) => ({ url: `http://localhost:${port}`, pid: process.pid })
    const [haproxy, redis] = [one(base + 80), one(base + 5)]
    const map = { pid: process.pid, haproxy, redis, instances: [one(base + 1)] }
    writeFileSync(join(folder, 'fleet.json'), JSON.stringify(map))
    const fleet = await startFleet({ FLEET_DIR: folder, FLEET_PORT_BASE: String(base) })
    expect(await fleet.stop()).toBe(0)
  })

  it.each(['{', '{}'])('says that it can not read what is there: %s', async (json) => {
    const folder = newFolder()
    writeFileSync(join(folder, 'fleet.json'), json)
    const said = await refusal({ FLEET_DIR: folder })
    expect(said).toMatch(/^Cannot start fleet: .*fleet.json is not to be read.*\n$/)
  })

  it('names what a killed one has left, and goes on where that is stopped', async () => {
    const { fleet, base } = await begin()
    const env = { FLEET_PORT_BASE: String(base), FLEET_DIR: fleet.folder }
    const session = await openSession(fleet.fetch)
    await callTool(fleet.fetch, session, 'increment_counter')
    const { haproxy, instances, redis } = fleet.map()
    const left = [haproxy, ...instances, redis].map(({ pid }) => Number(pid))
    fleet.signal('supervisor', 'SIGKILL')
    await until(
      () => refusal(env),
      (said) => said.includes(`(kill ${left.join(' ')})`),
    )
    for (const pid of left) process.kill(pid, 'SIGTERM')
    await until(
      () => Promise.all(OFFSETS.map((offset) => isFree(base + offset))),
      (all) => !all.includes(false),
    )
    const next = await startFleet(env)
    onTestFinished(async () => void (await next.stop()))
    expect(await callTool(next.fetch, session, 'increment_counter')).toMatchObject({ counter: 2 })
  })

  it('says what Redis has against its log', async () => {
    const folder = newFolder()
    const log = join(folder, 'redis', 'appendonlydir')
    mkdirSync(log, { recursive: true })
    writeFileSync(
      join(log, 'appendonly.aof.manifest'),
      'file appendonly.aof.1.incr.aof seq 1 type i\n',
    )
    // It listens long before it has come to the end of this.
    const set = '*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\n'
    writeFileSync(join(log, 'appendonly.aof.1.incr.aof'), `${set.repeat(500_000)}no command`)
    const said = await refusal({ FLEET_DIR: folder })
    expect(said).toMatch(/^Cannot start fleet: redis has ended, see .*:\n(.*\n)*.*Bad file format/m)
  })

  it.each([
    [{ FLEET_PORT_BASE: 'abc' }, /^Cannot use settings:\nFLEET_PORT_BASE: .*\n$/],
    [{ AUTH_TOKENS: 'me' }, /mcp-server-\d has ended, .*:\n(.*\n)*AUTH_TOKENS: 0: Each must be/],
  ])('says which setting it can not use: %o', async (env, said) => {
    expect(await refusal(env)).toMatch(said)
  })

  it('takes no empty secret', async () => {
    const folder = newFolder()
    writeFileSync(join(folder, 'secret'), '\n')
    const said = await refusal({ FLEET_DIR: folder })
    expect(said).toMatch(/^Cannot start fleet: .*secret is empty.*\n$/)
  })
})

describe('a fleet that is told to end', () => {
  // By when: the port of Redis, of an instance, of HAProxy, which it begins with the last.
  it.each([
    ['SIGTERM', 5],
    ['SIGINT', 1],
    ['SIGTERM', 3],
    ['SIGHUP', 80],
  ] as const)('leaves nothing at %s, however far it is: %i', async (signal, offset) => {
    const folder = newFolder()
    const base = await freeBase(OFFSETS)
    const env = { ...process.env, FLEET_DIR: folder, FLEET_PORT_BASE: String(base) }
    const fleet = spawn('node', ['haproxy-compat/fleet.ts'], { env, stdio: 'ignore' })
    const exited = once(fleet, 'exit')
    await until(
      () => isFree(base + offset),
      (free) => !free,
    )
    fleet.kill(signal)
    expect(await exited).toEqual([0, null])
    expect(processesWith(folder)).toEqual([])
    // Redis writes over its environment.
    expect(await isFree(base + 5)).toBe(true)
  })
})

/** Those that were started with `mark` in their environment, by their commands. */
function processesWith(mark: string): string[] {
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name))
  return pids.flatMap((pid) => {
    try {
      const environment = readFileSync(`/proc/${pid}/environ`, 'latin1')
      return environment.includes(mark) ? [readFileSync(`/proc/${pid}/cmdline`, 'latin1')] : []
    } catch {
      // It is gone by now, or somebody else's.
      return []
    }
  })
}

async function begin(): Promise<{ fleet: Fleet; base: number }> {
  const fleet = await startFleet()
  onTestFinished(async () => void (await fleet.stop()))
  return { fleet, base: Number(new URL(fleet.url).port) - 80 }
}

/** All that a fleet says that does not start. */
async function refusal(env: Record<string, string>): Promise<string> {
  const base = String(await freeBase(OFFSETS))
  const own = { FLEET_DIR: newFolder(), FLEET_PORT_BASE: base, ...env }
  const fleet = spawn('npm', ['run', '--silent', 'fleet'], {
    env: { ...process.env, ...own },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const closed = once(fleet, 'close')
  const said = await Promise.all([text(fleet.stdout), text(fleet.stderr)])
  expect(await closed).toEqual([1, null])
  return said.join('')
}

function newFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-start-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}
