import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'

/** The Debian package that brings each program: of the fleet, and of its tests. */
const PACKAGES = {
  'redis-server': 'redis-server',
  haproxy: 'haproxy',
  nginx: 'nginx-light',
  prometheus: 'prometheus',
  chromium: 'chromium',
} as const

/**
 * What Node is told for an instance. V8's memory reducer would mark for seconds after each lull, and
 * calls that come meanwhile take half as long again (`docs/decisions/010`).
 */
export const INSTANCE_FLAGS = ['--no-memory-reducer'] as const

/**
 * Makes sure that a program is there: installs it where that may be done (root on Debian), and
 * otherwise throws one line that says what to install.
 */
export function requireProgram(program: keyof typeof PACKAGES): void {
  if (isInstalled(program)) return
  const name = PACKAGES[program]
  if (process.getuid?.() === 0 && existsSync('/usr/bin/apt-get')) {
    console.log(`Installing ${name}`)
    // The list of packages may be old or missing.
    for (const args of [['update'], ['install', '-y', '--no-install-recommends', name]]) {
      spawnSync('apt-get', args, {
        stdio: 'ignore',
        env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' },
      })
    }
  }
  if (!isInstalled(program)) {
    throw new Error(`Cannot start ${program}: install it (Debian, Ubuntu: apt-get install ${name})`)
  }
}

function isInstalled(program: string): boolean {
  return spawnSync(program, ['-v'], { stdio: 'ignore' }).error === undefined
}
