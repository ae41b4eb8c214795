import { styleText } from 'node:util'
import { plain, type Terminal } from './command.ts'

/** Columns with their heads, as wide as they need to be; numbers stand to the right. */
export function table(
  heads: readonly string[],
  rows: readonly (readonly Cell[])[],
  terminal: Terminal,
): string {
  const texts = rows.map((row) => row.map((cell) => plain(String(cell))))
  const widths = heads.map((head, at) =>
    Math.max(head.length, ...texts.map((row) => row[at]?.length ?? 0)),
  )
  const isNumber = heads.map((_, at) => rows.every((row) => typeof row[at] === 'number'))
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, at) =>
        isNumber[at] ? cell.padStart(widths[at] ?? 0) : cell.padEnd(widths[at] ?? 0),
      )
      .join('  ')
      .trimEnd()
  return [coloured('dim', line(heads), terminal), ...texts.map(line)].join('\n')
}

export function coloured(format: Format, text: string, { hasColours }: Terminal): string {
  return hasColours ? styleText(format, text, { validateStream: false }) : text
}

type Format = 'dim' | 'green' | 'yellow' | 'red'
type Cell = string | number

/** A time as one number and its unit: `45s`, `12m`, `3h`, `2d`. */
export function span(ms: number): string {
  const seconds = Math.max(0, Math.round(ms / 1000))
  if (seconds < 120) return `${seconds}s`
  if (seconds < 120 * 60) return `${Math.round(seconds / 60)}m`
  if (seconds < 48 * 3600) return `${Math.round(seconds / 3600)}h`
  return `${Math.round(seconds / 86_400)}d`
}

export function megabytes(bytes: number): string {
  return `${Math.round(bytes / 1024 / 1024)} MB`
}
