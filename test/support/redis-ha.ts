/** Redis that outlives one of its processes, on loopback: with Sentinels, and as a Cluster. */
import { execFile, spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { createClient, type RedisClientType } from '@redis/client'
import { requireProgram } from '../../haproxy-compat/programs.ts'
import { until } from './mcp.ts'
import { freePort } from './ports.ts'

export interface RedisGroup {
  /**
   * For an instance: as a user with no more rights than `docs/scale-out.md` asks for. Of the nodes that
   * it names the first is not there.
   */
  readonly url: string
  /** A master; one of several in a cluster. */
  readonly master: RedisNode
  /** Whether it is the one for a key. */
  readonly hasMaster: (key: string) => Promise<boolean>
  /** The master has no replicas from now on: what it is told stays with it. */
  readonly cutOff: () => Promise<void>
  readonly rejoin: () => Promise<void>
  /** Kills the master, waits until a replica has taken its place, and starts it again as one of that. */
  readonly failOver: () => Promise<void>
  readonly stop: () => Promise<void>
}

interface RedisNode {
  readonly port: number
  readonly client: RedisClientType
  readonly kill: () => Promise<void>
  readonly start: () => void
}

// Down is what has not answered for so long.
const DOWN_MS = 1000
const PASSWORD = 'of-the-instances'
const REPLICA = 'of-the-replicas'
const HOST = '127.0.0.1'

/** One master, two replicas, three Sentinels. */
export async function startSentinels(): Promise<RedisGroup> {
  const folder = newFolder()
  const master = await startNode(folder)
  const follow = ['--replicaof', `${HOST} ${master.port}`]
  const replicas = [await startNode(folder, follow), await startNode(folder, follow)]
  await until(
    () => master.client.info('replication'),
    (info) => info.split('state=online').length === 3,
  )
  const sentinels: RedisNode[] = []
  for (let number = 0; number < 3; number++) {
    const file = join(folder, `sentinel-${number}`)
    writeFileSync(file, SENTINEL.replace('PORT', String(master.port)))
    sentinels.push(await startProcess([file, '--sentinel']))
  }
  const [first] = sentinels
  const told = async (): Promise<unknown> =>
    first?.client.sendCommand(['SENTINEL', 'MASTER', 'holdfast'])
  await until(told, (now) => matches(now, { 'num-slaves': '2', 'num-other-sentinels': '2' }))
  return {
    url: `redis+sentinel://holdfast:${PASSWORD}@${await withNobody(sentinels)}/holdfast`,
    ...masterOf(master),
    async failOver() {
      await master.kill()
      const others = replicas.map(({ port }) => String(port))
      await until(told, (now) => others.some((port) => matches(now, { port, flags: 'master' })))
      master.start()
    },
    stop: () => stopAll(folder, [master, ...replicas, ...sentinels]),
  }
}

/** Three masters, and a replica of each. */
export async function startCluster(): Promise<RedisGroup> {
  const folder = newFolder()
  const options = ['--cluster-enabled', 'yes', '--cluster-node-timeout', String(DOWN_MS)]
  const partial = ['--cluster-require-full-coverage', 'no']
  const nodes: RedisNode[] = []
  for (let number = 0; number < 6; number++) {
    const own = [
      '--cluster-config-file',
      `nodes-${number}`,
      '--cluster-port',
      `${await freePort()}`,
    ]
    nodes.push(await startNode(folder, [...options, ...partial, ...own]))
  }
  const [master, other] = nodes
  if (master === undefined || other === undefined) throw new Error('There are no nodes')
  const hosts = nodes.map(({ port }) => `${HOST}:${port}`)
  const create = ['--cluster', 'create', ...hosts, '--cluster-replicas', '1', '--cluster-yes']
  await promisify(execFile)('redis-cli', create)
  const told = async (): Promise<string> => other.client.sendCommand(['CLUSTER', 'NODES'])
  for (const { client } of nodes) {
    const state = async (): Promise<string> => client.sendCommand(['CLUSTER', 'INFO'])
    await until(state, (info) => info.includes('cluster_state:ok'))
  }
  for (const { client } of nodes.slice(0, 3)) {
    const replication = (): Promise<string> => client.info('replication')
    await until(replication, (info) => info.includes('state=online'))
  }
  return {
    url: `redis+cluster://holdfast:${PASSWORD}@${await withNobody(nodes.slice(0, 3))}`,
    ...masterOf(master),
    async failOver() {
      const before = mastersIn(await told())
      await master.kill()
      await until(told, (now) => mastersIn(now).some((port) => !before.includes(port)))
      master.start()
    },
    stop: () => stopAll(folder, nodes),
  }
}

async function withNobody(nodes: readonly RedisNode[]): Promise<string> {
  const ports = [await freePort(), ...nodes.map(({ port }) => port)]
  return ports.map((port) => `${HOST}:${port}`).join()
}

function masterOf(master: RedisNode) {
  const { client } = master
  return {
    master,
    hasMaster: (key: string) =>
      client.exists(key).then(
        () => true,
        () => false,
      ),
    async cutOff() {
      await client.aclSetUser('replica', 'off')
      await client.sendCommand(['CLIENT', 'KILL', 'TYPE', 'replica'])
    },
    async rejoin() {
      await client.aclSetUser('replica', 'on')
      await until(
        () => client.info('replication'),
        (info) => info.includes('state=online'),
      )
    },
  }
}

/** By the user file of the fleet, and what else `docs/scale-out.md` says. */
async function startNode(folder: string, args: readonly string[] = []): Promise<RedisNode> {
  const aclFile = join(mkdtempSync(join(folder, 'node-')), 'users')
  const template = readFileSync('haproxy-compat/redis-users.acl', 'utf8')
  const [line = ''] = /^user holdfast .*$/m.exec(template) ?? []
  const users = [
    'user default on nopass ~* &* +@all',
    `user replica on >${REPLICA} +psync +replconf +ping`,
    `${line.replace('#HOLDFAST', `>${PASSWORD}`)} +wait +cluster|slots +asking`,
  ]
  writeFileSync(aclFile, `${users.join('\n')}\n`)
  const replica = ['--masteruser', 'replica', '--masterauth', REPLICA]
  const memory = ['--save', '', '--appendonly', 'no', '--repl-diskless-sync-delay', '0']
  return startProcess(['--dir', folder, '--aclfile', aclFile, ...replica, ...memory, ...args])
}

async function startProcess(args: readonly string[]): Promise<RedisNode> {
  requireProgram('redis-server')
  const port = await freePort()
  // A file comes first, and what is said behind it counts.
  const own = ['--port', String(port), '--bind', HOST]
  const start = (): ChildProcess => spawn('redis-server', [...args, ...own], { stdio: 'ignore' })
  let child = start()
  const socket = { host: HOST, port, reconnectStrategy: 50 }
  const client: RedisClientType = createClient({ socket, maintNotifications: 'disabled' })
  client.on('error', () => undefined)
  await client.connect()
  return {
    port,
    client,
    start: () => void (child = start()),
    async kill() {
      if (child.exitCode !== null || child.signalCode !== null) return
      child.kill('SIGKILL')
      await once(child, 'exit')
    },
  }
}

const SENTINEL = `sentinel monitor holdfast ${HOST} PORT 2
sentinel down-after-milliseconds holdfast ${DOWN_MS}
sentinel failover-timeout holdfast 5000
`

async function stopAll(folder: string, nodes: readonly RedisNode[]): Promise<void> {
  for (const { client, kill } of nodes) {
    client.destroy()
    await kill()
  }
  rmSync(folder, { recursive: true, force: true })
}

function newFolder(): string {
  return mkdtempSync(join(tmpdir(), 'holdfast-redis-'))
}

/** The ports of a cluster's masters that are there and have slots. */
function mastersIn(nodes: string): string[] {
  const lines = nodes.split('\n').map((line) => line.split(' '))
  const masters = lines.filter(
    ([, , flags = '', , , , , , slots]) =>
      flags.includes('master') && !flags.includes('fail') && slots !== undefined,
  )
  return masters.map(([, address = '']) => /:(\d+)/.exec(address)?.[1] ?? '')
}

function matches(told: unknown, wanted: Record<string, string>): boolean {
  const now = told as Record<string, string>
  return Object.entries(wanted).every(([name, value]) => now[name] === value)
}
