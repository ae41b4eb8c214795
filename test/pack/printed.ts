import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

/** Writes the blocks under a heading of `document` whose first line names a file; answers their names. */
export function writeBlocks(document: string, heading: string, folder: string): readonly string[] {
  const [, after = ''] = readFileSync(document, 'utf8').split(`\n## ${heading}\n`)
  const [section = ''] = after.split('\n## ')
  mkdirSync(folder, { recursive: true })
  return [...section.matchAll(/```\w+\n(?:\/\/|#) ([\w.]+)\n(.*?)```/gs)].map(([, file, block]) => {
    writeFileSync(join(folder, file ?? ''), block ?? '')
    return file ?? ''
  })
}
