import { jsonText, type Asked, type Command } from './command.ts'
import { megabytes, span, table } from './table.ts'

export async function listInstances({ operator, json, terminal }: Asked): Promise<void> {
  const { at, instances } = await operator.overview()
  if (json) return terminal.print(jsonText(instances, 2))
  const heads = [
    'INSTANCE',
    'STATE',
    'UP',
    'SESSIONS',
    'STREAMS',
    'RUNNING',
    'CALLS',
    'ERRORS',
    'MEMORY',
    'LOAD',
  ]
  const rows = instances.map((instance) => [
    instance.name,
    instance.state,
    span(at - instance.startedAt),
    instance.sessions,
    instance.streams,
    instance.running,
    instance.calls,
    instance.errors,
    megabytes(instance.residentBytes),
    `${Math.round(instance.load * 100)}%`,
  ])
  terminal.print(table(heads, rows, terminal))
}

export function drainInstance(isDrained: boolean): Command {
  return async ({ operator, name, terminal }) => {
    if (!(await operator.drain(name, isDrained))) throw new Error(`There is no instance "${name}"`)
    terminal.print(isDrained ? `${name} drains` : `${name} takes calls again`)
  }
}
