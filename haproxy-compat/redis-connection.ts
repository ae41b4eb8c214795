import { createClient, createCluster, createSentinel, type RedisClientType } from '@redis/client'
import { AWAY_MS } from '../mcp/session/clock.ts'
import { createDeadline } from './deadline.ts'
import type { RedisSubscriber } from './redis-peers.ts'
import type { Address, Login, RedisPlace } from './redis-place.ts'
import { RovingSubscriber } from './roving-subscriber.ts'

/** The commands that are used here. */
export type RedisCommands = Pick<
  RedisClientType,
  'evalSha' | 'eval' | 'zAdd' | 'zRem' | 'zRemRangeByScore' | 'zCard' | 'pExpire' | 'sPublish'
>

export interface RedisConnection {
  readonly commands: RedisCommands
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
// What a Sentinel or a node of a cluster did not say by itself is asked for so often.
const LOOK_MS = 1000
const REFRESH_MS = 200

// A user may run what is needed, which these are not.
const QUIET = { disableClientInfo: true, maintNotifications: 'disabled' } as const
// What can't be sent now fails now: a call must not wait for a store that is away.
const PROMPT = { ...QUIET, disableOfflineQueue: true } as const
// The client's own timeout watches each command with a timer, and only until it is sent.
const UNTIMED = { commandOptions: { timeout: 0 } } as const
const SOCKET = { connectTimeout: COMMAND_MS, reconnectStrategy: RECONNECT_MS } as const

/** Waits until Redis is there. */
export function connectRedis(settings: RedisSettings): Promise<RedisConnection> {
  const { place } = settings
  switch (place.kind) {
    case 'server':
      return connectServer(place.url)
    case 'sentinel':
      return connectSentinel(place, settings.sentinelPassword)
    case 'cluster':
      return connectCluster(place)
  }
}

async function connectServer(url: string): Promise<RedisConnection> {
  const redis: RedisClientType = createClient({ url, socket: SOCKET, ...PROMPT, ...UNTIMED })
  const subscriber = createClient({ url, socket: SOCKET, ...QUIET, pingInterval: PING_MS })
  // Each loss of a connection is an event; the commands that fail of it say so themselves.
  for (const client of [redis, subscriber]) client.on('error', () => undefined)
  await Promise.all([redis.connect(), subscriber.connect()])
  const { lineOf, lost } = oneLine((command) => redis.sendCommand([...command]))
  redis.on('error', lost)
  const close = (): void => {
    for (const client of [redis, subscriber]) client.destroy()
  }
  return { commands: redis, subscriber, ping: () => redis.ping(), lineOf, close }
}

async function connectSentinel(
  { name, nodes, ...login }: Extract<RedisPlace, { kind: 'sentinel' }>,
  sentinelPassword: string | undefined,
): Promise<RedisConnection> {
  const options = {
    name,
    sentinelRootNodes: [...nodes],
    nodeClientOptions: { ...PROMPT, ...loginOf(login), socket: socketOf(login) },
    sentinelClientOptions: {
      ...QUIET,
      socket: socketOf(login),
      ...(sentinelPassword !== undefined && { password: sentinelPassword }),
    },
    // By default one that waits for the connection may wait for as long as others use it.
    reserveClient: true,
    // By default a command whose connection broke is sent again, and may have been carried out before.
    maxCommandRediscovers: 0,
    scanInterval: LOOK_MS,
    ...UNTIMED,
  }
  const redis = await insist(async () => {
    const sentinel = createSentinel(options).on('error', () => undefined)
    return sentinel.connect()
  })
  const { lineOf, lost } = oneLine((command) => redis.sendCommand(false, [...command]))
  redis.on('topology-change', ({ type }) => type === 'MASTER_CHANGE' && lost())
  redis.on('client-error', ({ type }) => type === 'MASTER' && lost())
  const subscriber = new RovingSubscriber({
    locate: async () => redis.getMasterNode(),
    connect: (address) => listenAt(address, login),
  })
  const close = (): void => {
    subscriber.destroy()
    void redis.destroy()
  }
  return { commands: redis, subscriber, ping: () => redis.ping(), lineOf, close }
}

async function connectCluster({
  nodes,
  ...login
}: Extract<RedisPlace, { kind: 'cluster' }>): Promise<RedisConnection> {
  const options = {
    rootNodes: nodes.map((address) => ({ socket: { ...address } })),
    defaults: { ...PROMPT, ...loginOf(login), socket: socketOf(login) },
    topologyRefreshOnReconnectionAttemptStrategy: REFRESH_MS,
    ...UNTIMED,
  }
  const redis = await insist(async () => {
    const cluster = createCluster(options).on('error', () => undefined)
    return cluster.connect()
  })
  const lines = new WeakMap<object, Line>()
  const within = createDeadline(COMMAND_MS)
  const nodeOf = (key: string) => within(redis.getNodeClientForKey(key))
  const subscriber = new RovingSubscriber({
    locate: async (channel) => (await nodeOf(channel)).options.socket as Address,
    connect: (address) => listenAt(address, login),
  })
  return {
    commands: redis,
    subscriber,
    // A part of the keys that is away does not make the others so.
    ping: () =>
      Promise.any(redis.masters.map(async (node) => (await redis.nodeClient(node)).ping())),
    async lineOf(key) {
      const client = await nodeOf(key)
      const known = lines.get(client)
      if (known !== undefined) return known
      const line = { send: (command: readonly string[]) => client.sendCommand([...command]) }
      lines.set(client, line)
      client.once('error', () => lines.delete(client))
      return line
    },
    close() {
      subscriber.destroy()
      redis.destroy()
    },
  }
}

/** One connection at a time: `lost` says that from now on it is another. */
function oneLine(send: Line['send']) {
  let line: Line = { send }
  return {
    lineOf: async () => line,
    lost: () => void (line = { send }),
  }
}

/** A connection that listens, until it is lost. */
function listenAt(address: Address, login: Login) {
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

async function insist<T>(connect: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await connect()
    } catch {
      await new Promise((resolve) => setTimeout(resolve, AWAY_MS))
    }
  }
}
