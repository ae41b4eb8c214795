import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import type { SessionId } from '../mcp/session/ids.ts'

/** What scripts need of a Redis client. */
export interface RedisScripts {
  evalSha(sha: string, options: ScriptArguments): Promise<unknown>
  eval(script: string, options: ScriptArguments): Promise<unknown>
}

interface ScriptArguments {
  readonly keys: string[]
  readonly arguments: string[]
}

export interface Script {
  readonly text: string
  readonly sha: string
}

/**
 * The braces keep all that is a session's in one cluster slot, so one script may touch it. The key's
 * name is also that of the channel where news of the session is told.
 */
export const sessionKey = (id: SessionId): string => `mcp:{${id}}:session`

export function scriptOf(text: string): Script {
  return { text, sha: createHash('sha1').update(text).digest('hex') }
}

export function readScript(file: string): Script {
  return scriptOf(readFileSync(new URL(file, import.meta.url), 'utf8'))
}

export async function runScript(
  redis: RedisScripts,
  { text, sha }: Script,
  keys: string[],
  args: string[],
): Promise<unknown> {
  const call = { keys, arguments: args }
  try {
    return await redis.evalSha(sha, call)
  } catch (error) {
    // A Redis that was started anew knows no scripts; it keeps what it runs.
    if (String(error).includes('NOSCRIPT')) return redis.eval(text, call)
    throw error
  }
}
