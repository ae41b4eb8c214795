/** Two HAProxies before the same instances: each knows where the sessions of the other are. */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { requireProgram } from '../../haproxy-compat/programs.ts'
import { expectNoFault, resilientCallers, underChaos } from '../support/chaos.ts'
import { ask, fetchFrom } from '../support/fleet.ts'
import { callTool, openSession, until } from '../support/mcp.ts'
import { startNode, type NodeInstance } from '../support/node.ts'
import { freePort } from '../support/ports.ts'
import { startRedis, type RedisServer } from '../support/redis.ts'

const SESSIONS = 500
// What a table may lack of the other one's.
const NEARLY = 0.99

describe('two HAProxies', () => {
  let redis: RedisServer
  let instances: NodeInstance[] = []
  let both: readonly [Haproxy, Haproxy]

  beforeAll(async () => {
    redis = await startRedis()
    const env = {
      REDIS_URL: redis.url,
      SESSION_SECRET: 'shared by the three of them',
      ROUTER_KEY_HEADER: 'holdfast-request',
      MAX_SESSIONS_PER_CALLER: '2000',
      SESSIONS_PER_MINUTE: '100000',
    }
    instances = await Promise.all(
      [1, 2, 3].map((n) => startNode({ ...env, INSTANCE_ID: `mcp-server-${n}` })),
    )
    both = await startHaproxies(instances)
  })
  afterAll(async () => {
    for (const haproxy of both) await haproxy.stop()
    for (const instance of instances) await instance.kill('SIGKILL')
    await redis.stop()
  })

  it('know of each other where a session is', async () => {
    const [one, two] = both
    const opened = await Promise.all(both.map(async ({ url }) => openMany(url, SESSIONS / 2)))
    const known = await until(tables, ([a, b]) => isNearly(a, b) && isNearly(b, a))
    expect(known.map(({ size }) => size / SESSIONS).every((part) => part >= NEARLY)).toBe(true)

    // By the table alone: the other one was never asked for this session.
    for (const session of opened[0]?.slice(0, 20) ?? []) {
      const [here, there] = [one, two].map(({ url }) => fetchFrom(url))
      const first = here && (await callTool(here, session, 'increment_counter'))
      const next = there && (await callTool(there, session, 'increment_counter'))
      expect(next).toMatchObject({ counter: 2, instance: first?.['instance'] })
    }
  })

  it('are one that can be killed, for a client that has both addresses', async () => {
    const [one] = both
    const before = (await tables())[0]
    const callers = await resilientCallers({ url: both.map(({ url }) => url) }, 30)
    const report = await underChaos(callers, async () => {
      await one.kill()
      await one.start()
      await until(tables, ([now, other]) => isNearly(before, now) && isNearly(other, now))
    })
    for (const caller of callers) await caller.close()
    expectNoFault(report)
  })

  async function tables(): Promise<readonly [Table, Table]> {
    const [one, two] = both
    return [await one.table(), await two.table()]
  }
})

/** Which instance each session is at, by the hash of its id. */
type Table = ReadonlyMap<string, string>

/** Whether `there` has nearly all that `here` has, as it has it. */
function isNearly(here: Table, there: Table): boolean {
  const same = [...here].filter(([key, server]) => there.get(key) === server)
  return same.length >= here.size * NEARLY
}

async function openMany(url: string, count: number): Promise<string[]> {
  const fetch = fetchFrom(url)
  const sessions: string[] = []
  const open = async (): Promise<void> => {
    while (sessions.length < count) sessions.push(await openSession(fetch))
  }
  await Promise.all(Array.from({ length: 8 }, open))
  return sessions
}

interface Haproxy {
  readonly url: string
  readonly table: () => Promise<Table>
  readonly kill: () => Promise<void>
  /** Answers when it serves. */
  readonly start: () => Promise<void>
  readonly stop: () => Promise<void>
}

/** As `haproxy.cfg` has them, told of each other by their environment alone. */
async function startHaproxies(
  instances: readonly NodeInstance[],
): Promise<readonly [Haproxy, Haproxy]> {
  requireProgram('haproxy')
  const peers = [await freePort(), await freePort()].map((port) => `127.0.0.1:${port}`)
  const servers = instances.map(({ url }, at) => [`SERVER_${at + 1}`, new URL(url).host])
  const [first = '', second = ''] = peers
  const common = Object.fromEntries(servers)
  const one = await createHaproxy({ ...common, PEER_BIND: first, PEER_2: second })
  const two = await createHaproxy({
    ...common,
    PEER_BIND: second,
    PEER_NAME: 'haproxy-2',
    PEER_1: first,
  })
  await Promise.all([one.start(), two.start()])
  return [one, two]
}

async function createHaproxy(given: Record<string, string>): Promise<Haproxy> {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-haproxy-'))
  const socket = join(folder, 'admin')
  const port = await freePort()
  const env = {
    ...process.env,
    HTTP_BIND: `127.0.0.1:${port}`,
    STATS_BIND: `127.0.0.1:${await freePort()}`,
    ADMIN_SOCKET: socket,
    ...given,
  }
  let child: ChildProcess | undefined
  const url = `http://127.0.0.1:${port}/mcp`
  const kill = async (): Promise<void> => {
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return
    child.kill('SIGKILL')
    await once(child, 'exit')
  }
  return {
    url,
    kill,
    async table() {
      const lines = (await ask(socket, 'show table mcp')).matchAll(/key=(\w+).* server_id=(\d+)/g)
      return new Map([...lines].map(([, key = '', server = '']) => [key, server]))
    },
    async start() {
      child = spawn('haproxy', ['-db', '-f', 'haproxy-compat/haproxy.cfg'], {
        env,
        stdio: 'ignore',
      })
      const ready = new URL('/ready', url)
      await until(
        () =>
          fetch(ready).then(
            (response) => response.ok,
            () => false,
          ),
        (isReady) => isReady,
      )
    },
    async stop() {
      await kill()
      rmSync(folder, { recursive: true })
    },
  }
}
