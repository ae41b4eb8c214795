import { execFile } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { convertV4MiniflareOptions, Miniflare } from 'miniflare'
import { modulesIn, type BundledModules } from '../support/bundle.ts'

export interface Workerd {
  /** `http://127.0.0.1:<port>` */
  readonly url: string
  readonly stop: () => Promise<void>
}

/**
 * The edge in workerd with nothing in front: what `wrangler dev` puts there hears of no client that hangs
 * up. It serves `/reset` besides, which has all objects lose their memory.
 */
export async function startWorkerd(modules: BundledModules, vars: object = {}): Promise<Workerd> {
  const config = readFileSync('wrangler.toml', 'utf8')
  const [, date = ''] = /^compatibility_date = "(.*)"$/m.exec(config) ?? []
  const [, flags = ''] = /^compatibility_flags = \[(.*)\]$/m.exec(config) ?? []
  const miniflare = new Miniflare(
    convertV4MiniflareOptions({
      modules,
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

export async function bundleEdge(): Promise<BundledModules> {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-bundle-'))
  const flags = ['deploy', 'test/edge/worker.ts', '--dry-run', '--outdir', folder]
  await promisify(execFile)('npx', ['wrangler', ...flags])
  const modules = modulesIn(folder)
  rmSync(folder, { recursive: true })
  return modules
}
