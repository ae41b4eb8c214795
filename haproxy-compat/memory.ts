import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

/**
 * Gives memory back that nobody uses. V8 collects when something is allocated, so a process that has
 * nothing to do would keep all its garbage.
 */
export function collectGarbage(): void {
  collect({ type: 'major', execution: 'sync', flavor: 'last-resort' })
}

// Only this module gets at it: the flag makes it a global of contexts made from now on.
setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc') as (options: object) => void
setFlagsFromString('--no-expose-gc')
