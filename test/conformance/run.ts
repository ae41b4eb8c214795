/** `npm run conformance`: the official suites against the edge variant, with their fixtures. */
import { startWrangler } from '../support/wrangler.ts'
import { runSuites } from './suites.ts'

const server = await startWrangler({ entry: 'test/conformance/worker.ts' })
try {
  for (const { name, scenarios, exitCode, output } of await runSuites(server.url)) {
    const failed = scenarios.filter(({ passed }) => !passed)
    const good = exitCode === 0 && scenarios.length > 0 && failed.length === 0
    console.log(`${name}: ${scenarios.length - failed.length} of ${scenarios.length} scenarios`)
    for (const { name: scenario } of scenarios) console.log(`  ${scenario}`)
    if (good) continue
    console.log(output)
    process.exitCode = 1
  }
} finally {
  await server.kill()
}
