import { execFile } from 'node:child_process'
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'

const run = promisify(execFile)

export interface Installed {
  /** An empty project with the packed tarball installed, and the examples in folders of their own. */
  readonly folder: string
  readonly tarballBytes: number
  readonly remove: () => void
}

/** Packs this repository, and installs what comes out as anybody would. */
export async function installPacked(): Promise<Installed> {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-pack-'))
  const packed = await run('npm', ['pack', '--silent', '--pack-destination', folder])
  const tarball = join(folder, packed.stdout.trim().split('\n').at(-1) ?? '')
  writeFileSync(join(folder, 'package.json'), '{ "private": true, "type": "module" }\n')
  const quiet = ['--no-audit', '--no-fund', '--prefer-offline', '--ignore-scripts']
  await run('timeout', ['120', 'npm', 'install', ...quiet, tarball], { cwd: folder })
  // Types of the runtimes, which a project brings along: those of this one will do.
  for (const types of ['@types/node', '@cloudflare/workers-types', 'undici-types']) {
    const own = resolve('node_modules', types)
    mkdirSync(join(folder, 'node_modules', types, '..'), { recursive: true })
    symlinkSync(own, join(folder, 'node_modules', types))
  }
  cpSync('examples', folder, { recursive: true })
  return {
    folder,
    tarballBytes: statSync(tarball).size,
    remove: () => rmSync(folder, { recursive: true, force: true }),
  }
}

/** Checks the types of `projects`, those of their dependencies too. Throws with what is wrong. */
export async function checkTypes(
  compiler: string,
  folder: string,
  types: readonly string[],
  projects: readonly string[],
): Promise<void> {
  const { compilerOptions } = JSON.parse(
    readFileSync(join(folder, 'shopping-list/tsconfig.json'), 'utf8'),
  ) as { compilerOptions: object }
  const include = projects.map((project) => `${project}/*.ts`)
  const project = join(folder, `${compiler}-${projects.join('-')}.json`)
  // The SDK's declarations name Node's Buffer, which is nothing on the edge.
  const skipLibCheck = !types.includes('node')
  const options = { ...compilerOptions, types, skipLibCheck }
  writeFileSync(project, JSON.stringify({ compilerOptions: options, include }))
  const tsc = resolve('node_modules', compiler, 'bin/tsc')
  await run(process.execPath, [tsc, '-p', project]).catch(({ stdout }: { stdout: string }) => {
    throw new Error(stdout)
  })
}
