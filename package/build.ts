/** Builds what is published into `dist/`: `npm run build`, and so does `npm pack`. */
import { execFile } from 'node:child_process'
import { chmodSync, cpSync, globSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'

const run = promisify(execFile)

const OUT = 'dist'
/** What is read at run time and is no code, and what a fleet of one's own begins with. */
const ASSETS = ['haproxy-compat/*.{lua,cfg,acl}', 'dashboard/*.html']
/** In a declaration a path ends as that of the module, which the compiler leaves as it was. */
const IMPORTED = /((?:from|import\()\s*['"]\.{1,2}\/[^'"]+)\.ts(?=['"])/g

process.chdir(join(import.meta.dirname, '..'))
rmSync(OUT, { recursive: true, force: true })
// Each runtime has types of its own. What both import comes out the same.
await Promise.all(['edge', 'node'].map(compile))
for (const file of globSync(`${OUT}/**/*.d.ts`)) {
  writeFileSync(file, readFileSync(file, 'utf8').replaceAll(IMPORTED, '$1.js'))
}
for (const file of ASSETS.flatMap((pattern) => globSync(pattern))) cpSync(file, join(OUT, file))
chmodSync(join(OUT, 'cli/holdfast.js'), 0o755)

async function compile(runtime: string): Promise<void> {
  const tsc = join('node_modules', 'typescript', 'bin', 'tsc')
  await run(process.execPath, [
    tsc,
    '--singleThreaded',
    '-p',
    `package/${runtime}.tsconfig.json`,
  ]).catch(({ stdout }: { stdout: string }) => {
    throw new Error(`Cannot build for ${runtime}:\n${stdout}`)
  })
}
