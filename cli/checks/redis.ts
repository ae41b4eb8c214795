import { createClient } from '@redis/client'
import { parseNodeConfig } from '../../haproxy-compat/node-config.ts'
import type { Address, Login, RedisPlace } from '../../haproxy-compat/redis-place.ts'
import { messageOf } from '../../mcp/errors.ts'
import { findingsAbout, isAtLeast, type Check, type Finding } from '../findings.ts'

const { ok, warning, problem } = findingsAbout('redis')
const TIMEOUT_MS = 3000
// Shard channels, by which instances hear of each other.
const LEAST_REDIS = '7.0'
const KEEPING = ['appendonly', 'appendfsync', 'maxmemory', 'maxmemory-policy']

/** That Redis is there, is recent enough, and neither forgets nor throws away what it is given. */
export const checkRedis: Check = async ({ env }) => {
  const redis = redisOf(env)
  if (redis === undefined) return []
  const { place, sentinelPassword } = redis
  switch (place.kind) {
    case 'server':
      return checkAt(place.url)
    case 'sentinel':
      return checkSentinels(place, sentinelPassword)
    case 'cluster': {
      const all = place.nodes.map((node) => checkAt(urlOf(node, place)))
      return (await Promise.all(all)).flat()
    }
  }
}

/** What is wrong with the settings was said with them. */
function redisOf(env: NodeJS.ProcessEnv) {
  try {
    return parseNodeConfig(env).redis
  } catch {
    return undefined
  }
}

type BehindSentinels = Extract<RedisPlace, { kind: 'sentinel' }>

async function checkSentinels(
  { name, nodes, ...login }: BehindSentinels,
  password: string | undefined,
): Promise<readonly Finding[]> {
  const findings: Finding[] = []
  let master: string | undefined
  for (const node of nodes) {
    // The login is the master's.
    const url = urlOf(node, { tls: login.tls, ...(password !== undefined && { password }) })
    const asked = await using(url, (client) =>
      client.sendCommand<string[] | null>(['SENTINEL', 'GET-MASTER-ADDR-BY-NAME', name]),
    ).catch((error: unknown) => messageOf(error))
    const at = `Sentinel ${node.host}:${node.port}`
    if (typeof asked === 'string') findings.push(problem(`${at}: ${asked}`))
    else if (asked === null) findings.push(problem(`${at} knows no master "${name}"`))
    else {
      const [host = '', port] = asked
      master ??= urlOf({ host, port: Number(port) }, login)
      findings.push(ok(`${at} knows the master`))
    }
  }
  return master === undefined ? findings : [...findings, ...(await checkAt(master))]
}

async function checkAt(url: string): Promise<readonly Finding[]> {
  const { host } = new URL(url)
  try {
    return await using(url, async (client) => {
      await client.ping()
      // Which all users may ask.
      const { version } = await client.hello()
      const settings = await client.configGet(KEEPING).catch(() => undefined)
      return [ok(`${host} answers`), checkVersion(version), ...checkKeeping(settings)]
    })
  } catch (error) {
    return [problem(`${host}: ${messageOf(error)}; see that it runs, and REDIS_URL`)]
  }
}

async function using<T>(url: string, act: (client: Client) => Promise<T>): Promise<T> {
  const client = connectionTo(url)
  client.on('error', () => undefined)
  try {
    await client.connect()
    return await act(client)
  } finally {
    if (client.isOpen) client.destroy()
  }
}

type Client = ReturnType<typeof connectionTo>

function connectionTo(url: string) {
  return createClient({
    url,
    disableClientInfo: true,
    maintNotifications: 'disabled',
    socket: { connectTimeout: TIMEOUT_MS, socketTimeout: TIMEOUT_MS, reconnectStrategy: false },
  })
}

function urlOf({ host, port }: Address, { tls, username = '', password = '' }: Login): string {
  const login = [username, password].map(encodeURIComponent).join(':')
  const named = host.includes(':') ? `[${host}]` : host
  return `${tls ? 'rediss' : 'redis'}://${login === ':' ? '' : `${login}@`}${named}:${port}`
}

function checkVersion(version: string): Finding {
  if (isAtLeast(version, LEAST_REDIS)) return ok(version)
  return problem(`${version} is older than ${LEAST_REDIS}: install a later one`)
}

/** `undefined`: the user may not ask. */
function checkKeeping(settings: Record<string, string> | undefined): readonly Finding[] {
  if (settings === undefined) {
    const what = 'appendonly is yes, and maxmemory-policy noeviction'
    return [warning(`this user may not see how it keeps data: see for yourself that ${what}`)]
  }
  const { appendonly, appendfsync, maxmemory, 'maxmemory-policy': policy } = settings
  return [checkLog(appendonly, appendfsync), checkPolicy(policy, maxmemory)]
}

function checkLog(appendonly: string | undefined, appendfsync: string | undefined): Finding {
  if (appendonly !== 'yes') {
    return problem(`appendonly is ${appendonly}: sessions are lost when it restarts; set it to yes`)
  }
  if (appendfsync === 'always') return ok('what was acknowledged is on disk (appendfsync always)')
  const lost = 'the last second may be lost with the machine'
  return warning(`appendfsync is ${appendfsync}: ${lost}; with always nothing is`)
}

function checkPolicy(policy: string | undefined, maxmemory: string | undefined): Finding {
  if (policy === 'noeviction') return ok('it throws no session away (maxmemory-policy noeviction)')
  const text = `maxmemory-policy is ${policy}: a full Redis would throw sessions away; set it to noeviction`
  return maxmemory === '0' ? warning(text) : problem(text)
}
