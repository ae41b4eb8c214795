/** What who writes tools or a store needs: `holdfast`, as it is published. */
export { ServerError } from './errors.ts'
export { LIMITS, type Limits } from './limits.ts'
export type { Call } from './session/call.ts'
export type { Principal, SessionId, StreamId } from './session/ids.ts'
export { createMemoryStore, type MemoryStoreOptions } from './session/memory-store.ts'
export {
  applyCommit,
  findReply,
  isOwnedBy,
  packSession,
  unpackSession,
  type RecordLimits,
  type StoredSession,
} from './session/record.ts'
export {
  slot,
  type JsonObject,
  type JsonValue,
  type SessionState,
  type Slot,
} from './session/state.ts'
export type {
  Append,
  Asked,
  Commit,
  CommitOutcome,
  Entry,
  Loaded,
  RecordedAnswer,
  Reply,
  Result,
  RpcOutcome,
  SessionRecord,
  SessionStore,
  Settings,
  StreamEntries,
} from './session/store.ts'
export {
  defineTool,
  fromMcpServer,
  type Pack,
  type StateResource,
  type Tool,
} from './session/tool.ts'
export { resumeSession } from './tools/resume-session.ts'
