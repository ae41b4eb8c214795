import {
  createClient,
  createCluster,
  type RedisClientType,
  type RedisClusterType,
} from '@redis/client'
import { messageOf } from '../mcp/errors.ts'
import { AWAY_MS, sleep, systemClock } from '../mcp/session/clock.ts'
import { createDeadline } from './deadline.ts'
import type { RedisSubscriber } from './redis-peers.ts'
import type { Address, Login, RedisPlace } from './redis-place.ts'
import { RovingSubscriber } from './roving-subscriber.ts'
import { Sentinels } from './sentinels.ts'

/** The commands that are used here. */
export type RedisCommands = Pick<
  RedisClientType,
  'evalSha' | 'eval' | 'zAdd' | 'zRem' | 'zRemRangeByScore' | 'zCard' | 'pExpire' | 'sPublish'
>

export interface RedisConnection {
  /** For the next command: another one after a failover. */
  readonly commands: () => RedisCommands
  readonly subscriber: RedisSubscriber
  /** Rejects unless Redis can be reached. */
  readonly ping: () => Promise<unknown>
  /** The line on which what concerns `key` is written. */
  readonly lineOf: (key: string) => Promise<Line>
  readonly close: () => void
}

/** One connection to one master: another one when that was lost, be it to the same master. */
export interface Line {
  send(command: readonly string[]): Promise<unknown>
}

export interface RedisSettings {
  readonly place: RedisPlace
  /** What Sentinels ask for, where it is not what Redis asks for. */
  readonly sentinelPassword?: string | undefined
}

// A command that is not answered by then has failed: its call is refused, and may be sent again.
export const COMMAND_MS = 1200
const RECONNECT_MS = 100
// A connection that only listens learns in this way that it is dead.
const PING_MS = 1000
// While a node of a cluster is away, the others are asked so often who has its place.
const REFRESH_MS = 200

// A user may run what is needed, which these are not.
const QUIET = { disableClientInfo: true, maintNotifications: 'disabled' } as const
// What can't be sent now fails now: a call must not wait for a store that is away.
const PROMPT = { ...QUIET, disableOfflineQueue: true } as const
// The client's own timeout watches each command with a timer, and only until it is sent.
const UNTIMED = { commandOptions: { timeout: 0 } } as const
const SOCKET = { connectTimeout: COMMAND_MS, reconnectStrategy: RECONNECT_MS } as const

/** Waits until Redis is there. Meanwhile `tell` is told why it is not, of each reason in a row once. */
export async function connectRedis(
  settings: RedisSettings,
  tell: (why: string) => void,
): Promise<RedisConnection> {
  let told: string | undefined
  let isThere = false
  const failed = (error: unknown): void => {
    // Node gives several addresses that refuse no words, but a code.
    const why = messageOf(error) || String((error as { code?: unknown }).code)
    if (isThere || why === told) return
    told = why
    tell(why)
  }
  const connection = await connect(settings, failed)
  isThere = true
  return connection
}

type Failed = (error: unknown) => void

function connect({ place, ...more }: RedisSettings, failed: Failed): Promise<RedisConnection> {
  switch (place.kind) {
    case 'server':
      return connectServer(place.url, failed)
    case 'sentinel':
      return connectSentinel(place, more.sentinelPassword, failed)
    case 'cluster':
      return connectCluster(place, failed)
  }
}

async function connectServer(url: string, failed: Failed): Promise<RedisConnection> {
  const redis: RedisClientType = createClient({ url, socket: SOCKET, ...PROMPT, ...UNTIMED })
  // Of the same class: to make that of its hundreds of commands is a tenth of what a start takes.
  const subscriber = redis.duplicate({
    // What it is to hear of waits for a Redis that is away.
    disableOfflineQueue: false,
    commandOptions: {},
    pingInterval: PING_MS,
  })
  // Each loss of a connection is an event; the commands that fail of it say so themselves.
  for (const client of [redis, subscriber]) client.on('error', failed)
  await Promise.all([redis.connect(), subscriber.connect()])
  const lineOn = createLines()
  return {
    commands: () => redis,
    subscriber,
    ping: () => redis.ping(),
    lineOf: async () => lineOn(redis),
    close() {
      for (const client of [redis, subscriber]) client.destroy()
    },
  }
}

async function connectSentinel(
  { name, nodes, ...login }: Extract<RedisPlace, { kind: 'sentinel' }>,
  sentinelPassword: string | undefined,
  failed: Failed,
): Promise<RedisConnection> {
  const password = sentinelPassword === undefined ? {} : { password: sentinelPassword }
  const sentinels = new Sentinels<RedisClientType>({
    name,
    nodes,
    failed,
    askAt: (address) => clientAt(address, { tls: login.tls, ...password }),
    open(address) {
      const socket = { ...socketOf(login), ...address }
      const redis: RedisClientType = createClient({
        ...PROMPT,
        ...UNTIMED,
        ...loginOf(login),
        socket,
      })
      redis.on('error', failed)
      // It goes on until it is there, or until there is another master.
      redis.connect().catch(() => undefined)
      return redis
    },
  })
  await sentinels.connect()
  const lineOn = createLines()
  const subscriber = new RovingSubscriber({
    locate: async () => sentinels.master.address,
    connect: (address) => clientAt(address, login),
  })
  return {
    commands: () => sentinels.master.client,
    subscriber,
    ping: () => sentinels.master.client.ping(),
    lineOf: async () => lineOn(sentinels.master.client),
    close() {
      subscriber.destroy()
      sentinels.destroy()
    },
  }
}

async function connectCluster(
  { nodes, ...login }: Extract<RedisPlace, { kind: 'cluster' }>,
  failed: Failed,
): Promise<RedisConnection> {
  const redis: RedisClusterType = createCluster({
    rootNodes: nodes.map((address) => ({ socket: { ...address } })),
    defaults: { ...PROMPT, ...loginOf(login), socket: socketOf(login) },
    topologyRefreshOnReconnectionAttemptStrategy: REFRESH_MS,
    ...UNTIMED,
  })
  redis.on('error', () => undefined)
  const isConnected = (): Promise<boolean> =>
    redis.connect().then(
      () => true,
      (error: unknown) => {
        failed(error)
        return false
      },
    )
  while (!(await isConnected())) await sleep(systemClock, AWAY_MS)
  const lineOn = createLines()
  const within = createDeadline(COMMAND_MS)
  const nodeOf = (key: string) => within(redis.getNodeClientForKey(key))
  const subscriber = new RovingSubscriber({
    locate: async (channel) => (await nodeOf(channel)).options.socket as Address,
    connect: (address) => clientAt(address, login),
  })
  return {
    commands: () => redis,
    subscriber,
    // A part of the keys that is away does not make the others so.
    ping: () =>
      Promise.any(redis.masters.map(async (node) => (await redis.nodeClient(node)).ping())),
    lineOf: async (key) => lineOn(await nodeOf(key)),
    close() {
      subscriber.destroy()
      redis.destroy()
    },
  }
}

/** What is a line, and from which loss on it is another. */
function createLines() {
  const lines = new WeakMap<LineClient, Line>()
  return (client: LineClient): Line => {
    const known = lines.get(client)
    if (known !== undefined) return known
    const line: Line = { send: (command) => client.sendCommand([...command]) }
    lines.set(client, line)
    client.once('error', () => lines.delete(client))
    return line
  }
}

interface LineClient {
  sendCommand(command: string[]): Promise<unknown>
  once(event: 'error', act: () => void): unknown
}

/** A connection to one server until it is lost. */
function clientAt(address: Address, login: Login) {
  const socket = { ...socketOf(login), ...address, reconnectStrategy: false } as const
  return createClient({ ...QUIET, ...loginOf(login), socket })
}

function socketOf({ tls }: Login) {
  return tls ? ({ ...SOCKET, tls: true } as const) : SOCKET
}

function loginOf({ username, password }: Login) {
  return {
    ...(username !== undefined && { username }),
    ...(password !== undefined && { password }),
  }
}
