import { spawn } from 'node:child_process'
import { once } from 'node:events'
import type { Fetch } from './mcp.ts'

export interface NodeInstance {
  readonly fetch: Fetch
  readonly url: string
  readonly pid: number
  readonly kill: (signal: NodeJS.Signals) => Promise<number | null>
}

/** One Node instance as a process, on a port of its own. */
export async function startNode(
  env: Record<string, string> = {},
  entry = 'haproxy-compat/server.ts',
): Promise<NodeInstance> {
  const starting = spawnNode(env, entry)
  const url = await starting.url
  return {
    url,
    pid: starting.pid,
    fetch: (request) => fetch(new Request(`${url}${new URL(request.url).pathname}`, request)),
    kill: starting.kill,
  }
}

interface StartingInstance extends Pick<NodeInstance, 'pid' | 'kill'> {
  /** When it serves. */
  readonly url: Promise<string>
  /** All that it has said so far. */
  readonly output: () => string
}

/** The same, which need not come to serve. */
export function spawnNode(
  env: Record<string, string>,
  entry = 'haproxy-compat/server.ts',
): StartingInstance {
  const child = spawn('node', [entry], {
    env: { ...process.env, REDIS_URL: '', PORT: '0', DRAIN_SECONDS: '0', ...env },
  })
  let output = ''
  const listening = Promise.withResolvers<string>()
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (text) => {
      output += text
      const [, url] = /serves (\S+)\/mcp/.exec(output) ?? []
      if (url !== undefined) listening.resolve(url)
    })
  }
  const exited = once(child, 'exit') as Promise<[number | null]>
  void exited.then(() => listening.reject(new Error(`The instance has stopped:\n${output}`)))
  // Who does not wait for it has other ways to see that it has stopped.
  listening.promise.catch(() => undefined)
  return {
    url: listening.promise,
    pid: child.pid ?? 0,
    output: () => output,
    async kill(signal) {
      child.kill(signal)
      return (await exited)[0]
    },
  }
}
