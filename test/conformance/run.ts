/** `npm run conformance`: the official suites against each topology, with their fixtures. */
import { runSuite, SUITES, type Suite } from './suites.ts'
import { TOPOLOGIES } from './topologies.ts'

for (const { name, start } of TOPOLOGIES) {
  console.log(`\n${name}`)
  const server = await start()
  try {
    for (const suite of SUITES) await report(suite, server.url)
  } finally {
    await server.stop()
  }
}

async function report(suite: Suite, url: string): Promise<void> {
  const { passed, failed, exitCode, output } = await runSuite(suite, url)
  const total = suite.scenarios + suite.unscored.length
  console.log(`  ${suite.name}: ${passed.length} of ${total} scenarios`)
  for (const scenario of passed) console.log(`    ${scenario}`)
  for (const scenario of failed) console.log(`    FAILED: ${scenario}`)
  if (exitCode === 0 && passed.length === total && failed.length === 0) return
  console.log(output)
  process.exitCode = 1
}
