import { parseArgs } from 'node:util'

/** What a bench is told by `--name value`; `defaults` says what else, and which are numbers. */
export function parseFlags<T extends Record<string, string | number>>(defaults: T): T {
  const options = Object.entries(defaults).map(([name, value]) => [
    name,
    { type: 'string', default: String(value) },
  ])
  const { values } = parseArgs({ options: Object.fromEntries(options) })
  const parsed = Object.entries(values).map(([name, value]) => {
    if (typeof defaults[name] !== 'number') return [name, value]
    if (Number.isNaN(Number(value))) throw new Error(`Cannot read --${name}: it is no number`)
    return [name, Number(value)]
  })
  return Object.fromEntries(parsed) as T
}
