import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { until } from './mcp.ts'
import { freePort } from './ports.ts'

export interface Wrangler {
  /** `http://localhost:<port>` */
  readonly url: string
  readonly port: number
  /** Where the objects' storage is. */
  readonly state: string
  /** SIGKILL to wrangler and workerd at once: what a lost machine is. */
  readonly kill: () => Promise<void>
}

export interface WranglerOptions {
  readonly entry?: string
  readonly config?: string
  readonly port?: number
  readonly state?: string
}

/** The edge variant as `npm start` runs it, on a port and a state folder of its own. */
export async function startWrangler(options: WranglerOptions = {}): Promise<Wrangler> {
  const port = options.port ?? (await freePort())
  const state = options.state ?? mkdtempSync(join(tmpdir(), 'holdfast-'))
  const entry = options.entry === undefined ? [] : [options.entry]
  const config = ['-c', options.config ?? 'wrangler.toml']
  const flags = [...config, '--port', String(port), '--inspector-port', '0', '--persist-to', state]
  const child = spawn('npx', ['wrangler', 'dev', ...entry, ...flags], {
    // A process group of its own, so that one signal reaches all of it.
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: {
      ...process.env,
      CI: '1',
      WRANGLER_SEND_METRICS: 'false',
      CLOUDFLARE_CF_FETCH_ENABLED: 'false',
    },
  })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (text) => (output += text))
  const exited = once(child, 'exit')
  const url = `http://localhost:${port}`
  const ready = until(
    () => isReady(url),
    (answer) => answer || child.exitCode !== null,
  )
  await ready
  if (child.exitCode !== null) throw new Error(`wrangler has stopped:\n${output}`)
  return {
    url,
    port,
    state,
    async kill() {
      if (child.pid !== undefined && child.exitCode === null) process.kill(-child.pid, 'SIGKILL')
      await exited
    },
  }
}

async function isReady(url: string): Promise<boolean> {
  try {
    const response = await fetch(`${url}/ready`)
    await response.text()
    return response.ok
  } catch {
    return false
  }
}
