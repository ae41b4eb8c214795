import { print, printJson, type Asked, type Command } from './command.ts'
import { megabytes, span, table } from './table.ts'

export async function listInstances({ operator, json }: Asked): Promise<number> {
  const { at, instances } = await operator.overview()
  if (json) return printJson(instances)
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
  return print(table(heads, rows))
}

export function drainInstance(isDrained: boolean): Command {
  return async ({ operator, name }) => {
    if (!(await operator.drain(name, isDrained))) throw new Error(`There is no instance "${name}"`)
    return print(isDrained ? `${name} drains` : `${name} takes calls again`)
  }
}
