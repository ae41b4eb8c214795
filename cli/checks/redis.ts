import { createClient } from '@redis/client'
import { messageOf } from '../../mcp/errors.ts'
import { findingsAbout, isAtLeast, type Check, type Finding } from '../findings.ts'

const { ok, warning, problem } = findingsAbout('redis')
const TIMEOUT_MS = 3000
// Shard channels, by which instances hear of each other.
const LEAST_REDIS = '7.0'
const KEEPING = ['appendonly', 'appendfsync', 'maxmemory', 'maxmemory-policy']

/** That Redis is there, is recent enough, and neither forgets nor throws away what it is given. */
export const checkRedis: Check = async ({ env }) => {
  const { REDIS_URL: url } = env
  if (!url) return []
  // What is wrong with the URL itself was said with the settings.
  if (!/^rediss?:/.test(url) || !URL.canParse(url)) return []
  const client = createClient({
    url,
    disableClientInfo: true,
    maintNotifications: 'disabled',
    socket: { connectTimeout: TIMEOUT_MS, socketTimeout: TIMEOUT_MS, reconnectStrategy: false },
  })
  client.on('error', () => undefined)
  try {
    await client.connect()
    await client.ping()
    const { version } = await client.hello()
    return [
      ok('it answers'),
      checkVersion(version),
      ...checkKeeping(await client.configGet(KEEPING).catch(() => undefined)),
    ]
  } catch (error) {
    const { host } = new URL(url)
    return [problem(`${host}: ${messageOf(error)}; see that it runs, and REDIS_URL`)]
  } finally {
    if (client.isOpen) client.destroy()
  }
}

function checkVersion(version: string): Finding {
  if (isAtLeast(version, LEAST_REDIS)) return ok(version)
  return problem(`${version} is older than ${LEAST_REDIS}: install a later one`)
}

/** `undefined`: the user may not ask. */
function checkKeeping(settings: Record<string, string> | undefined): readonly Finding[] {
  if (settings === undefined) {
    return [
      warning(
        'this user may not see how it keeps data: see for yourself that appendonly is yes, and ' +
          'maxmemory-policy noeviction',
      ),
    ]
  }
  const { appendonly, appendfsync, 'maxmemory-policy': policy } = settings
  return [checkLog(appendonly, appendfsync), checkPolicy(policy, settings['maxmemory'])]
}

function checkLog(appendonly: string | undefined, appendfsync: string | undefined): Finding {
  if (appendonly !== 'yes') {
    return problem(`appendonly is ${appendonly}: sessions are lost when it restarts; set it to yes`)
  }
  if (appendfsync === 'always') return ok('what was acknowledged is on disk (appendfsync always)')
  return warning(
    `appendfsync is ${appendfsync}: the last second may be lost with the machine; always loses none`,
  )
}

function checkPolicy(policy: string | undefined, maxmemory: string | undefined): Finding {
  if (policy === 'noeviction') return ok('it throws no session away (maxmemory-policy noeviction)')
  const text = `maxmemory-policy is ${policy}: a full Redis would throw sessions away`
  const advice = 'set it to noeviction'
  return maxmemory === '0' ? warning(`${text}; ${advice}`) : problem(`${text}; ${advice}`)
}
