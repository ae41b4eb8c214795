import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { requireProgram } from '../../haproxy-compat/programs.ts'
import { fetchFrom } from './fleet.ts'
import { until, type Fetch } from './mcp.ts'
import { freePort, isFree } from './ports.ts'

/** The ways in which an nginx of `front-doors/nginx/` picks an instance. */
export const DOORS = ['by-session', 'by-cookie', 'in-turn'] as const

export type Door = (typeof DOORS)[number]

export interface Nginx {
  readonly url: string
  readonly fetch: Fetch
  /** A client of its own that keeps the cookies it is given. */
  readonly withCookies: () => Fetch
  readonly stop: () => Promise<void>
}

/** An nginx as its sample has it, before three servers; `change` is made to the sample. */
export async function startNginx(
  door: Door,
  servers: readonly string[],
  change: (config: string) => string = (config) => config,
): Promise<Nginx> {
  requireProgram('nginx')
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-nginx-'))
  const port = await freePort()
  const settings: Record<string, string> = {
    DOOR: door,
    LISTEN: `127.0.0.1:${port}`,
    RUN_DIR: folder,
    ...Object.fromEntries(servers.map((url, at) => [`SERVER_${at + 1}`, new URL(url).host])),
  }
  for (const name of ['nginx', door]) {
    const sample = change(readFileSync(`front-doors/nginx/${name}.conf`, 'utf8'))
    writeFileSync(join(folder, `${name}.conf`), filledIn(sample, settings))
  }
  const args = ['-p', folder, '-c', join(folder, 'nginx.conf')]
  const checked = spawnSync('nginx', [...args, '-t'], { encoding: 'utf8' })
  if (checked.status !== 0 || checked.stderr.includes('[warn]')) throw new Error(checked.stderr)
  const child = spawn('nginx', [...args, '-g', 'daemon off;'], { stdio: 'ignore' })
  const exited = once(child, 'exit')
  await until(
    () => isFree(port),
    (free) => !free || child.exitCode !== null,
  )
  const url = `http://localhost:${port}/mcp`
  return {
    url,
    fetch: fetchFrom(url),
    withCookies: () => withCookies(fetchFrom(url)),
    async stop() {
      child.kill('SIGTERM')
      await exited
      rmSync(folder, { recursive: true })
    },
  }
}

/** As `envsubst` does it, which leaves nginx its own variables; throws where one is not set. */
function filledIn(sample: string, settings: Record<string, string>): string {
  return sample.replaceAll(/\$\{([A-Z_\d]+)\}/g, (_, name: string) => {
    const value = settings[name]
    if (value === undefined) throw new Error(`Cannot fill in ${name}: it is not set`)
    return value
  })
}

function withCookies(fetch: Fetch): Fetch {
  const jar = new Map<string, string>()
  return async (request) => {
    const headers = new Headers(request.headers)
    if (jar.size > 0) {
      headers.set('cookie', [...jar].map(([name, value]) => `${name}=${value}`).join('; '))
    }
    const response = await fetch(new Request(request, { headers }))
    for (const cookie of response.headers.getSetCookie()) {
      const [, name = '', value = ''] = /^(\w+)=(\w*)/.exec(cookie) ?? []
      jar.set(name, value)
    }
    return response
  }
}
