import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { freePort } from './ports.ts'
import type { Fetch } from './mcp.ts'

/** What `npm run fleet` writes to `fleet.json`. */
interface FleetMap {
  readonly haproxy: { url: string; statsUrl: string; socket: string; pid: number | null }
  readonly redis: { url: string; pid: number | null }
  readonly instances: readonly { id: string; url: string; pid: number | null }[]
}

export interface Fleet {
  readonly fetch: Fetch
  readonly folder: string
  readonly url: string
  readonly map: () => FleetMap
  /** A command for HAProxy's admin socket, and what it says to it. */
  readonly admin: (command: string) => Promise<string>
  /** Stops it as Ctrl-C does; answers its exit code. */
  readonly stop: () => Promise<number | null>
}

/** A fleet of its own, on ports of its own, as `npm run fleet` makes it. */
export async function startFleet(env: Record<string, string> = {}): Promise<Fleet> {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-fleet-'))
  const base = await freeBase()
  const child = spawn('node', ['haproxy-compat/fleet.ts'], {
    env: { ...process.env, FLEET_DIR: folder, FLEET_PORT_BASE: String(base), ...env },
  })
  let output = ''
  const serving = Promise.withResolvers<void>()
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (text) => {
      output += text
      if (output.includes('serves')) serving.resolve()
    })
  }
  const exited = once(child, 'exit') as Promise<[number | null]>
  void exited.then(() => serving.reject(new Error(`The fleet has stopped:\n${output}`)))
  await serving.promise
  const map = (): FleetMap => JSON.parse(readFileSync(join(folder, 'fleet.json'), 'utf8'))
  const url = `${map().haproxy.url}/mcp`
  return {
    folder,
    url,
    map,
    fetch: (request) => fetch(new Request(new URL(new URL(request.url).pathname, url), request)),
    admin: (command) => ask(map().haproxy.socket, command),
    async stop() {
      child.kill('SIGTERM')
      const [code] = await exited
      rmSync(folder, { recursive: true, force: true })
      return code
    },
  }
}

async function ask(socket: string, command: string): Promise<string> {
  const connection = connect(socket)
  connection.end(`${command}\n`)
  let answer = ''
  for await (const chunk of connection) answer += chunk
  return answer
}

/** A base whose ports nobody listens on: the port that was free just now lies among them. */
async function freeBase(): Promise<number> {
  return Math.min(64_000, (await freePort()) - 80)
}
