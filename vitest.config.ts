import { cloudflareTest } from '@cloudflare/vitest-plugin'
import { defineConfig } from 'vitest/config'

const system = { testTimeout: 120_000, hookTimeout: 60_000 }

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
          sequence: { groupOrder: 1 },
        },
      },
      {
        // How long a failure is felt is measured with nothing else running.
        test: {
          ...system,
          name: 'chaos',
          include: ['test/chaos/**/*.test.ts'],
          fileParallelism: false,
          sequence: { groupOrder: 2 },
        },
      },
    ],
  },
})
