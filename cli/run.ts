import { existsSync, readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { messageOf } from '../mcp/errors.ts'
import { UsageError, type Command, type Terminal } from './command.ts'
import { drainInstance, listInstances } from './instances.ts'
import { createRemoteOperator } from './remote-operator.ts'
import { endSession, followSession, listSessions, showSession } from './sessions.ts'

const HELP = `Usage: holdfast <command> [--json]

  sessions list             the sessions that were used last
  sessions show <name>      one of them
  sessions end <name>       ends it, whoever's it is
  sessions follow <name>    what happens in it from now on
  instance list             the instances, and how they are
  instance drain <name>     takes no more calls: its sessions go on elsewhere
  instance undrain <name>   takes them again
  doctor                    checks the server, and the settings in this environment

  A session goes by its name or its id's first characters, or by how either begins, if no other does.

  --json       what machines read, where something is shown
  --help       this
  --version    the version of holdfast

  HOLDFAST_URL     the server (http://localhost:8080)
  HOLDFAST_TOKEN   a token with the scope of an operator, where callers are asked who they are

  Exit codes: 0 done, 1 it could not be done or there are problems, 2 that is no command.`

const COMMANDS: Readonly<Record<string, Command>> = {
  'sessions list': listSessions,
  'sessions show': showSession,
  'sessions end': endSession,
  'sessions follow': followSession,
  'instance list': listInstances,
  'instance drain': drainInstance(true),
  'instance undrain': drainInstance(false),
  // Which brings along what nothing else needs.
  doctor: async (asked) => (await import('./doctor.ts')).doctor(asked),
}
const TAKE_A_NAME = /^(sessions (show|end|follow)|instance (un)?drain)$/

/** Does what `args` say; answers the exit code. */
export async function run(args: string[], terminal: Terminal): Promise<number> {
  try {
    return await runCommand(args, terminal)
  } catch (error) {
    const isUsage = error instanceof UsageError
    terminal.complain(`holdfast: ${messageOf(error)}${isUsage ? ' (see holdfast --help)' : ''}`)
    return isUsage ? 2 : 1
  }
}

async function runCommand(args: string[], terminal: Terminal): Promise<number> {
  const { values, positionals } = parse(args)
  if (values.help === true || values.version === true) {
    terminal.print(values.help === true ? HELP : version())
    return 0
  }
  const words = positionals[0] === 'doctor' ? 1 : 2
  const called = positionals.slice(0, words).join(' ')
  const [name, ...more] = positionals.slice(words)
  const command = Object.hasOwn(COMMANDS, called) ? COMMANDS[called] : undefined
  if (command === undefined) {
    throw new UsageError(called === '' ? 'No command given' : `There is no command "${called}"`)
  }
  const wanted = TAKE_A_NAME.test(called)
  if (wanted && !name) throw new UsageError(`Which one? ${called} <name>`)
  const extra = wanted ? more[0] : name
  if (extra !== undefined) throw new UsageError(`"${extra}" is too much for ${called}`)

  const { HOLDFAST_URL: url = 'http://localhost:8080', HOLDFAST_TOKEN: token } = terminal.env
  if (!/^https?:\/\//.test(url) || !URL.canParse(url)) {
    throw new UsageError(`HOLDFAST_URL is no http:// or https:// URL: "${url}"`)
  }
  const operator = createRemoteOperator(url, token)
  return (
    (await command({ operator, url, name: name ?? '', json: values.json === true, terminal })) ?? 0
  )
}

function parse(args: string[]) {
  try {
    const options = {
      json: { type: 'boolean' },
      help: { type: 'boolean', short: 'h' },
      version: { type: 'boolean' },
    } as const
    return parseArgs({ args, options, allowPositionals: true })
  } catch (error) {
    const [first = ''] = messageOf(error).split('. ')
    throw new UsageError(first)
  }
}

/** Of the package that this file is in. */
function version(): string {
  let folder = new URL('.', import.meta.url)
  while (!existsSync(new URL('package.json', folder))) folder = new URL('..', folder)
  return String(JSON.parse(readFileSync(new URL('package.json', folder), 'utf8')).version)
}
