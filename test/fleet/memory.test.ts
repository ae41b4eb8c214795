import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { afterAll, beforeAll, expect, it, onTestFinished } from 'vitest'
import { fetchFrom } from '../support/fleet.ts'
import { callTool, openSession, until } from '../support/mcp.ts'
import { startRedis, type RedisServer } from '../support/redis.ts'

let redis: RedisServer

beforeAll(async () => {
  redis = await startRedis()
})
afterAll(() => redis.stop())

it('an instance lets go of an idle session, collects its garbage, and restores it later', async () => {
  const { printed, clear } = startTraced({ REDIS_URL: redis.url, LIVE_IDLE_SECONDS: '0.5' })
  const [, url = ''] = await printed(/serves (\S+)/)
  const fetch = fetchFrom(url)
  const session = await openSession(fetch)
  await callTool(fetch, session, 'increment_counter')
  clear()
  await printed(COLLECTED)
  expect(await callTool(fetch, session, 'increment_counter')).toMatchObject({ counter: 2 })
  await printed(/"session_restored"/)
})

// What V8 says of a collection that was asked for, and of no other.
const COLLECTED = /Mark-Compact .* testing/

/** One Node instance that tells of its collections. */
function startTraced(env: Record<string, string>) {
  const child = spawn('node', ['--trace-gc', 'haproxy-compat/server.ts'], {
    env: { ...process.env, PORT: '0', ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const exited = once(child, 'exit')
  onTestFinished(async () => {
    child.kill('SIGKILL')
    await exited
  })
  let output = ''
  child.stdout.on('data', (text) => (output += text))
  return {
    /** Waits for it. */
    printed: async (pattern: RegExp): Promise<readonly string[]> => {
      const match = async (): Promise<readonly string[] | null> => pattern.exec(output)
      return (await until(match, (found) => found !== null)) ?? []
    },
    /** Forgets what was printed so far. */
    clear: () => void (output = ''),
  }
}
