import type { Pack } from '../mcp/session/tool.ts'
import type { Env } from './env.ts'
import { SessionObject } from './mcp-session.ts'

export type { Env } from './env.ts'
export { SessionIndex } from './session-index.ts'

/** The class of objects that hold the sessions of a server with `pack`; `wrangler.toml` names it. */
export function createSessionObject(pack: Pack): SessionObjectClass {
  return class extends SessionObject {
    protected override readonly pack = pack
  }
}

type SessionObjectClass = new (ctx: DurableObjectState, env: Env) => SessionObject
