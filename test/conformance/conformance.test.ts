import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startWrangler, type Wrangler } from '../support/wrangler.ts'
import { runSuites, type Suite } from './suites.ts'

describe('the official conformance suites, on the edge', () => {
  let server: Wrangler
  let suites: Suite[]

  beforeAll(async () => {
    server = await startWrangler({ entry: 'test/conformance/worker.ts' })
    suites = await runSuites(server.url)
  })
  afterAll(() => server.kill())

  it('pass all 30 active scenarios of 0.1.16', () => {
    expect(suites[0]?.exitCode).toBe(0)
    expect(failed(suites[0])).toEqual([])
    expect(suites[0]?.scenarios).toHaveLength(30)
  })

  it('pass all 30 that 2025-11-25 requires, and the three that are not scored', () => {
    expect(suites[1]?.exitCode).toBe(0)
    expect(failed(suites[1])).toEqual([])
    expect(suites[1]?.scenarios).toHaveLength(33)
    const names = suites[1]?.scenarios.map(({ name }) => name)
    const unscored = ['server-sse-polling', 'server-session-lifecycle', 'json-schema-2020-12']
    expect(names).toEqual(expect.arrayContaining(unscored))
  })
})

function failed(suite: Suite | undefined): string[] {
  return suite?.scenarios.filter(({ passed }) => !passed).map(({ name }) => name) ?? ['did not run']
}
