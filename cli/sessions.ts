import type { Happening, Overview, SessionName, SessionView } from '../mcp/operator.ts'
import { jsonText, plain, type Asked } from './command.ts'
import type { RemoteOperator } from './remote-operator.ts'
import { span, table } from './table.ts'

export async function listSessions({ operator, json, terminal }: Asked): Promise<void> {
  const { at, sessions } = await operator.overview()
  if (json) return terminal.print(jsonText(sessions, 2))
  const heads = [
    'SESSION',
    'ID',
    'CLIENT',
    'HOLDER',
    'AGE',
    'UNUSED',
    'CALLS',
    'STREAMS',
    'RUNNING',
  ]
  const rows = sessions.latest.map((session) => [
    session.name,
    session.id,
    session.client,
    session.holder,
    span(at - session.openedAt),
    span(at - session.usedAt),
    session.calls,
    session.streams,
    session.running,
  ])
  terminal.print(table(heads, rows, terminal))
  const left = sessions.total - sessions.latest.length
  if (left > 0) terminal.print(`and ${left} more`)
}

export async function showSession({ operator, name, json, terminal }: Asked): Promise<void> {
  const session = await operator.session(await resolve(operator, name))
  if (session === undefined) throw noSession(name)
  if (json) return terminal.print(jsonText(session, 2))
  const rows = [
    ['session', session.name],
    ['id', `${session.id}…`],
    ['principal', `${session.principal}…`],
    ['client', session.client],
    ['revision', session.revision],
    ['holder', session.holder],
    ['opened', ago(session.openedAt)],
    ['used', ago(session.usedAt)],
    ['expires', `${iso(session.expiresAt)}, in ${span(session.expiresAt - Date.now())} if unused`],
    ['calls', session.calls],
    ['streams', session.streams],
    ['running', session.running],
  ] as const
  terminal.print(rows.map(([head, value]) => `${head.padEnd(9)}  ${plain(`${value}`)}`).join('\n'))
}

export async function endSession({ operator, name, terminal }: Asked): Promise<void> {
  const found = await resolve(operator, name)
  if (!(await operator.end(found))) throw noSession(name)
  terminal.print(`Ended ${found}`)
}

/** Until the session ends, or Ctrl-C. */
export async function followSession({ operator, name, json, terminal }: Asked): Promise<void> {
  const { signal } = new AbortController()
  const happenings = await operator.follow(await resolve(operator, name), signal)
  if (happenings === undefined) throw noSession(name)
  for await (const happening of happenings) {
    terminal.print(json ? jsonText(happening) : describe(happening))
    if (happening.kind === 'ended') return
  }
  throw new Error('The server told no more')
}

/** A whole name need not be among those used last. */
async function resolve(operator: RemoteOperator, name: string): Promise<SessionName> {
  if (/^[0-9a-f]{16}$/.test(name)) return name as SessionName
  return find(await operator.overview(), name).name
}

function find({ sessions }: Overview, name: string): SessionView {
  const meant = sessions.latest.filter(
    (session) => session.name.startsWith(name) || session.id.startsWith(name),
  )
  const [session, another] = meant
  if (session === undefined) throw noSession(name)
  if (another === undefined) return session
  throw new Error(`"${name}" may be each of ${meant.map((one) => one.name).join(', ')}`)
}

function noSession(name: string): Error {
  return new Error(`There is no session "${name}"`)
}

function describe({ at, kind, version, stream, last }: Happening): string {
  const details = [
    version !== undefined && `version ${version}`,
    stream !== undefined && `stream ${stream}`,
    last !== undefined && `entry ${last}`,
  ]
  return plain([iso(at), kind, ...details.filter((detail) => detail !== false)].join('  '))
}

function ago(time: number): string {
  return `${iso(time)}, ${span(Date.now() - time)} ago`
}

function iso(time: number): string {
  return new Date(time).toISOString()
}
