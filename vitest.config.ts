import { cloudflareTest } from '@cloudflare/vitest-plugin'
import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
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
          name: 'system',
          include: ['test/{chaos,clients,failover,fleet,conformance,project}/**/*.test.ts'],
          testTimeout: 120_000,
          hookTimeout: 60_000,
        },
      },
    ],
  },
})
