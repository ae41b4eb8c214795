import { execFileSync } from 'node:child_process'
import { rmSync, writeFileSync } from 'node:fs'
import { expect, it } from 'vitest'

// Written where the rule must bite, and taken away again.
it.each([
  ['mcp/session/planted.ts', '../../worker/index.ts'],
  ['mcp/session/planted.ts', '../http/app.ts'],
  ['mcp/tools/planted.ts', '../../durable-objects/env.ts'],
  ['mcp/tools/planted.ts', 'hono'],
  ['mcp/http/planted.ts', 'node:fs'],
  ['mcp/http/planted.ts', '../../cli/table.ts'],
  ['durable-objects/planted.ts', '../worker/index.ts'],
])('the linter refuses that %s imports %s', (file, imported) => {
  writeFileSync(file, `import * as planted from '${imported}'\nexport const used = planted\n`)
  try {
    expect(() => execFileSync('npx', ['oxlint', '--type-aware', file], { stdio: 'pipe' })).toThrow(
      expect.objectContaining({ stdout: expect.objectContaining({ length: expect.any(Number) }) }),
    )
    expect(lint(file)).toContain('no-restricted-imports')
  } finally {
    rmSync(file)
  }
})

function lint(file: string): string {
  try {
    return execFileSync('npx', ['oxlint', '--type-aware', file], {
      encoding: 'utf8',
      stdio: 'pipe',
    })
  } catch (error) {
    return (error as { stdout: string }).stdout
  }
}
