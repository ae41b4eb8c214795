import { defineConfig } from 'vitest/config'

// Apart from the other tests, for `npm test` needs no Docker.
export default defineConfig({
  test: {
    include: ['test/compose/**/*.test.ts'],
    reporters: ['default', './test/support/count-reporter.ts'],
    testTimeout: 120_000,
    // The first build fetches packages.
    hookTimeout: 600_000,
  },
})
