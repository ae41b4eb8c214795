import { execFile } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { convertV4MiniflareOptions, Miniflare } from 'miniflare'

export interface Workerd {
  /** `http://127.0.0.1:<port>` */
  readonly url: string
  readonly stop: () => Promise<void>
}

/**
 * The edge in workerd with nothing in front: what `wrangler dev` puts there hears of no client that hangs
 * up. It serves `/reset` besides, which has all objects lose their memory.
 */
export async function startWorkerd(bundle: string, vars: object = {}): Promise<Workerd> {
  const config = readFileSync('wrangler.toml', 'utf8')
  const [, date = ''] = /^compatibility_date = "(.*)"$/m.exec(config) ?? []
  const [, flags = ''] = /^compatibility_flags = \[(.*)\]$/m.exec(config) ?? []
  const miniflare = new Miniflare(
    convertV4MiniflareOptions({
      modules: [{ type: 'ESModule', path: 'index.js', contents: bundle }],
      compatibilityDate: date,
      compatibilityFlags: Array.from(flags.matchAll(/"(\w+)"/g), ([, flag = '']) => flag),
      bindings: { ALLOWED_HOSTS: 'localhost,127.0.0.1', ...vars },
      durableObjects: {
        SESSION_OBJECTS: { className: 'McpSession', useSQLite: true },
        INDEX: { className: 'SessionIndex', useSQLite: true },
      },
    }),
  )
  const { origin } = await miniflare.ready
  return { url: origin, stop: () => miniflare.dispose() }
}

export async function bundleEdge(): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-bundle-'))
  const flags = ['deploy', 'test/edge/worker.ts', '--dry-run', '--outdir', folder]
  await promisify(execFile)('npx', ['wrangler', ...flags])
  const file = readdirSync(folder).find((name) => name.endsWith('.js')) ?? 'worker.js'
  const bundle = readFileSync(join(folder, file), 'utf8')
  rmSync(folder, { recursive: true })
  return bundle
}
