import type { SessionObject } from './mcp-session.ts'
import type { SessionIndex } from './session-index.ts'

/** The bindings in `wrangler.toml`; its `vars` are read by `parseConfig`. */
export interface Env {
  readonly SESSION_OBJECTS: DurableObjectNamespace<SessionObject>
  readonly INDEX: DurableObjectNamespace<SessionIndex>
  /** How fast one caller may open sessions; unset: only the index counts. */
  readonly OPENING?: RateLimit
}
