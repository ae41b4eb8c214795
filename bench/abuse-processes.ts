/** What the processes of a fleet hold. */
import { createClient, type RedisClientType } from '@redis/client'
import { footprintsOf } from '../test/hostile/abuse-footprint.ts'
import type { Fleet } from '../test/support/fleet.ts'

export interface Holding {
  readonly residentMb: number
  readonly files: number
}

export type Holdings = Readonly<Record<string, Holding>>

/** By name; HAProxy is a master with a worker. */
export function holdingsOf({ map }: Fleet): Holdings {
  const { haproxy, redis, instances } = map()
  const all = [...instances, { id: 'haproxy', ...haproxy }, { id: 'redis', ...redis }]
  return Object.fromEntries(
    all.map(({ id, pid }) => {
      // What Redis starts writes its log anew, from the same memory.
      const own = footprintsOf([pid]).filter((one) => id === 'haproxy' || one.pid === pid)
      const residentMb = own.reduce((sum, one) => sum + one.residentMb, 0)
      return [id, { residentMb, files: own.reduce((sum, one) => sum + one.files, 0) }]
    }),
  )
}

export interface Store {
  readonly read: () => Promise<{ keys: number; megabytes: number }>
  /** The names of some keys, without what is of one session. */
  readonly names: () => Promise<readonly string[]>
  readonly close: () => void
}

/** Looks into the fleet's Redis as its operator. */
export async function openOperator({ map }: Fleet): Promise<Store> {
  const redis: RedisClientType = createClient({ url: map().redis.url })
  // The fleet may be stopped under it.
  redis.on('error', () => undefined)
  await redis.connect()
  return {
    async read() {
      const [, used] = /used_memory:(\d+)/.exec(await redis.info('memory')) ?? []
      return { keys: await redis.dbSize(), megabytes: Number(used) / 1e6 }
    },
    async names() {
      const { keys } = await redis.scan('0', { COUNT: 1000 })
      return [...new Set(keys.map((key) => key.replace(/\{.*\}/, '{...}')))].toSorted()
    },
    close: () => redis.destroy(),
  }
}

/** Runs `act` with a fleet that is stopped afterwards, also by Ctrl-C. */
export async function withFleet(fleet: Fleet, act: () => Promise<void>): Promise<void> {
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => void fleet.stop().then(() => process.exit(1)))
  }
  try {
    await act()
  } finally {
    await fleet.stop()
  }
}
