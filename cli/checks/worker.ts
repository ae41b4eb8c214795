import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { isLoopback, parseConfig } from '../../mcp/config.ts'
import { messageOf } from '../../mcp/errors.ts'
import { findingsAbout, type Check, type Finding } from '../findings.ts'

const { ok, warning, problem } = findingsAbout('worker')
const FILES = ['wrangler.toml', 'wrangler.json', 'wrangler.jsonc']
// As in durable-objects/env.ts.
const OBJECTS = ['SESSION_OBJECTS', 'INDEX']
const LEAST_DATE = '2026-10-20'
const FLAGS = ['enable_request_signal', 'request_signal_passthrough']

/** That the Worker in this folder would find what it needs when it is deployed. */
export const checkWorker: Check = async ({ folder }) => {
  const file = FILES.find((name) => existsSync(join(folder, name)))
  if (file === undefined) return []
  const read = await readConfig(folder, file)
  return 'kind' in read ? [read] : [...checkPlatform(file, read), ...checkVars(file, read.vars)]
}

interface WorkerConfig {
  readonly compatibility_date?: string | undefined
  readonly compatibility_flags: readonly string[]
  readonly durable_objects: { readonly bindings: readonly { readonly name: string }[] }
  readonly ratelimits?: readonly { readonly name: string }[] | undefined
  readonly vars: Record<string, unknown>
}

/** By wrangler itself, which whoever deploys has. */
async function readConfig(folder: string, file: string): Promise<WorkerConfig | Finding> {
  const wrangler = await import('wrangler').catch(() => undefined)
  if (wrangler === undefined) return warning(`${file} was not checked: wrangler is not installed`)
  try {
    return wrangler.unstable_readConfig({ config: join(folder, file) }, { hideWarnings: true })
  } catch (error) {
    const [first = ''] = messageOf(error).split('\n')
    return problem(`${file} can't be read: ${first}`)
  }
}

function checkPlatform(file: string, config: WorkerConfig): readonly Finding[] {
  const { compatibility_date: date = 'none', compatibility_flags: flags } = config
  const bound = new Set(config.durable_objects.bindings.map(({ name }) => name))
  const missing = OBJECTS.filter((name) => !bound.has(name))
  const unset = FLAGS.filter((flag) => !flags.includes(flag))
  const limits = (config.ratelimits ?? []).map(({ name }) => name)
  return [
    date !== 'none' && date >= LEAST_DATE
      ? ok(`compatibility_date ${date}`)
      : problem(`compatibility_date is ${date}: set it to ${LEAST_DATE} or later in ${file}`),
    unset.length === 0
      ? ok('a client that hangs up is noticed')
      : problem(`compatibility_flags lacks ${unset.join(', ')}: a call would go on unheard`),
    missing.length === 0
      ? ok('its objects are bound')
      : problem(`durable_objects.bindings lacks ${missing.join(', ')}`),
    limits.includes('OPENING')
      ? ok('the rate of new sessions is limited')
      : warning('there is no rate limit OPENING: each new session asks an object for its place'),
  ]
}

function checkVars(file: string, vars: Record<string, unknown>): readonly Finding[] {
  try {
    const { auth, allowAnonymous, allowed } = parseConfig(vars)
    const own = allowed.hosts.filter((host) => !isLoopback(host))
    return [
      own.length > 0
        ? ok(`ALLOWED_HOSTS has ${own.join(', ')}`)
        : problem(`ALLOWED_HOSTS has this machine alone: put your host name there, in ${file}`),
      auth !== undefined || allowAnonymous
        ? ok(auth ? 'callers say who they are' : 'ALLOW_ANONYMOUS=1: everybody may call')
        : warning(
            'nothing in vars says who may call: deployed it answers 403 until AUTH_TOKENS or JWT_ISSUER ' +
              'is set (wrangler secret put AUTH_TOKENS)',
          ),
    ]
  } catch (error) {
    return messageOf(error)
      .split('\n')
      .slice(1)
      .map((line) => problem(`vars in ${file}: ${line}`))
  }
}
