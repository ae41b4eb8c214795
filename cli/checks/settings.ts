import { parseNodeConfig } from '../../haproxy-compat/node-config.ts'
import { isLoopback, parseConfig } from '../../mcp/config.ts'
import { messageOf } from '../../mcp/errors.ts'
import { findingsAbout, isAtLeast, type Check, type Finding } from '../findings.ts'

const { ok, warning, problem } = findingsAbout('settings')
const node = findingsAbout('node')
// As "engines" in package.json.
const LEAST_NODE = '22.12'

/** That an instance would start with these settings, and what they mean. */
export const checkSettings: Check = async ({ env }) => [
  checkNode(process.versions.node),
  // The server that is asked has others.
  ...judge(env).map((finding) => ({ ...finding, text: `in this shell: ${finding.text}` })),
]

function judge(env: NodeJS.ProcessEnv): readonly Finding[] {
  const wrong: Finding[] = []
  for (const parse of [parseConfig, parseNodeConfig]) {
    try {
      parse(env)
    } catch (error) {
      wrong.push(
        ...messageOf(error)
          .split('\n')
          .slice(1)
          .map((line) => problem(line)),
      )
    }
  }
  return wrong.length > 0 ? wrong : [checkSecret(env), checkCallers(env)]
}

function checkNode(found: string): Finding {
  if (isAtLeast(found, LEAST_NODE)) return node.ok(found)
  return node.problem(`${found} is older than ${LEAST_NODE}: install a later one`)
}

function checkSecret(env: NodeJS.ProcessEnv): Finding {
  const { REDIS_URL, SESSION_SECRET } = env
  if (SESSION_SECRET) return ok('SESSION_SECRET is set: the same must be for each instance')
  if (!REDIS_URL) return ok('REDIS_URL is not set: sessions of an instance end with it')
  return problem(
    'SESSION_SECRET is not set: no instance would know the ids of another one, nor its own after a ' +
      'restart (openssl rand -hex 32 makes one)',
  )
}

function checkCallers(env: NodeJS.ProcessEnv): Finding {
  const { auth, allowAnonymous } = parseConfig(env)
  if (auth !== undefined) {
    const kinds = [
      ...(auth.tokens.length > 0 ? [`${auth.tokens.length} static tokens`] : []),
      ...(auth.jwt !== undefined ? [`tokens of ${auth.jwt.issuer}`] : []),
    ]
    return ok(`callers say who they are: ${kinds.join(', ')}`)
  }
  if (allowAnonymous) {
    return warning('ALLOW_ANONYMOUS=1: whoever reaches the server may call, so see who does')
  }
  const { host } = parseNodeConfig(env)
  if (isLoopback(host)) return ok(`nobody is asked who they are: ${host} is for this machine alone`)
  const what = 'set AUTH_TOKENS or JWT_ISSUER, or ALLOW_ANONYMOUS=1 to let everybody in'
  return problem(`HOST=${host}, and callers are not asked who they are: ${what}`)
}
