import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createClient, type RedisClientType } from '@redis/client'
import { requireProgram } from '../../haproxy-compat/programs.ts'
import { until } from './mcp.ts'
import { freePort } from './ports.ts'

export interface RedisServer {
  readonly url: string
  readonly stop: () => Promise<void>
}

/** A Redis of its own, on loopback, with nothing on disk. */
export async function startRedis(given?: number): Promise<RedisServer> {
  requireProgram('redis-server')
  const port = given ?? (await freePort())
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-redis-'))
  const settings = ['--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--dir', folder]
  const child = spawn('redis-server', ['--port', String(port), ...settings], { stdio: 'ignore' })
  const exited = once(child, 'exit')
  const url = `redis://127.0.0.1:${port}`
  const client = createClient({ url, socket: { reconnectStrategy: 20 } })
  // Refused until the server listens; the client tries again by itself.
  client.on('error', () => undefined)
  // Should the port be taken, it ends, and another Redis may be the one that answers.
  const ended = exited.then(([code]) => {
    throw new Error(`redis-server has ended with ${code}`)
  })
  const info = async (): Promise<string> => client.info('server')
  const isIts = (told: string): boolean => told.includes(`process_id:${child.pid}\r`)
  const answers = client.connect().then(() => until(info, isIts))
  await Promise.race([answers, ended]).finally(() => client.destroy())
  return {
    url,
    async stop() {
      child.kill('SIGKILL')
      await exited
      rmSync(folder, { recursive: true, force: true })
    },
  }
}

/** A client that is connected. */
export async function clientOf(url: string): Promise<RedisClientType> {
  const client: RedisClientType = createClient({ url })
  await client.connect()
  return client
}

/** How many processes hear news of a session. */
export async function hearersOf(redis: RedisClientType, session: string): Promise<number> {
  const channel = `mcp:{${session}}:session`
  const counts = await redis.pubSubShardNumSub([channel])
  return Number(counts[channel])
}
