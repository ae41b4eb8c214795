import { cloudflareTest } from '@cloudflare/vitest-plugin'
import { defineConfig } from 'vitest/config'

const system = { testTimeout: 120_000, hookTimeout: 60_000 }
// How long a failure is felt, or abuse of others, is measured with nothing else running; and what
// races for leases needs the cores it thinks it has.
const timed = [
  'test/chaos/**/*.test.ts',
  'test/fleet/streams.test.ts',
  'test/hostile/abuse{,-flood}.test.ts',
]

export default defineConfig({
  test: {
    // Most tests wait most of the time.
    maxWorkers: 2,
    // What the servers log is not what a test says.
    onConsoleLog: (text) => !text.includes('"event"'),
    reporters: ['default', './test/support/count-reporter.ts'],
    projects: [
      {
        // The kernel and the client in plain Node, over the memory store.
        test: { name: 'kernel', include: ['test/{mcp,client}/**/*.test.ts'] },
      },
      {
        // Worker and objects inside workerd.
        plugins: [cloudflareTest({ wrangler: { configPath: './wrangler.toml' } })],
        test: { name: 'edge', include: ['test/edge/**/*.test.ts'] },
      },
      {
        // Whole servers as processes, with real clients.
        test: {
          ...system,
          name: 'system',
          include: [
            'test/{cli,clients,dashboard,failover,fleet,hostile,conformance,pack,project}/**/*.test.ts',
          ],
          exclude: timed,
          maxWorkers: 3,
          sequence: { groupOrder: 1 },
        },
      },
      {
        test: {
          ...system,
          name: 'chaos',
          include: timed,
          fileParallelism: false,
          sequence: { groupOrder: 2 },
        },
      },
    ],
  },
})
