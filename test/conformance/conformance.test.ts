import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { runSuite, SUITES } from './suites.ts'
import { TOPOLOGIES, type Served } from './topologies.ts'

describe.each(TOPOLOGIES)('the official conformance suites, on $name', ({ start }) => {
  let server: Served

  beforeAll(async () => void (server = await start()))
  afterAll(() => server.stop())

  it.each(SUITES)('pass all $scenarios scenarios of $name and those not scored', async (suite) => {
    const { passed, failed, exitCode } = await runSuite(suite, server.url)
    expect(failed).toEqual([])
    expect(passed).toHaveLength(suite.scenarios + suite.unscored.length)
    expect(passed).toEqual(expect.arrayContaining([...suite.unscored]))
    expect(exitCode).toBe(0)
  })
})
