import { env, exports } from 'cloudflare:workers'
import type { Env } from '../../durable-objects/env.ts'
import type { SessionObject } from '../../durable-objects/mcp-session.ts'
import type { Fetch } from '../support/mcp.ts'

export const { SESSIONS } = env as unknown as Env

/** The Worker, as the network calls it. */
export const edgeFetch: Fetch = (request) =>
  (exports as unknown as { default: { fetch: Fetch } }).default.fetch(request)

export function objectOf(session: string): DurableObjectStub<SessionObject> {
  return SESSIONS.get(SESSIONS.idFromString(session))
}
