/** Ends `npm run test:compose` with one line where it can't run. */
import { spawnSync } from 'node:child_process'

for (const command of [['version'], ['compose', 'version']]) {
  if (spawnSync('docker', command, { stdio: 'ignore' }).status === 0) continue
  console.error(
    `Cannot run test:compose: it needs a Docker engine with Compose, and "docker ${command.join(' ')}" fails`,
  )
  process.exit(1)
}
