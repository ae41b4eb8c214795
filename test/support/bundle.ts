import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

export type BundledModules = ReturnType<typeof modulesIn>

/** What `wrangler deploy --dry-run` has left in `folder`, as Miniflare takes it: `index.js` comes first. */
export function modulesIn(folder: string) {
  const files = readdirSync(folder)
  const textOf = (file: string): string => readFileSync(join(folder, file), 'utf8')
  const code = files.find((file) => file.endsWith('.js')) ?? 'index.js'
  const pages = files.filter((file) => file.endsWith('.html'))
  return [
    { type: 'ESModule' as const, path: 'index.js', contents: textOf(code) },
    ...pages.map((path) => ({ type: 'Text' as const, path, contents: textOf(path) })),
  ]
}
