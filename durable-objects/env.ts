import type { SessionObject } from './mcp-session.ts'
import type { SessionIndex } from './session-index.ts'

/** The bindings in `wrangler.toml`; its `vars` are read by `parseConfig`. */
export interface Env {
  readonly SESSIONS: DurableObjectNamespace<SessionObject>
  readonly INDEX: DurableObjectNamespace<SessionIndex>
}
