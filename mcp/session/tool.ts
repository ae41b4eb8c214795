import type {
  JSONRPCRequest,
  McpServer,
  ServerNotifier,
  ToolAnnotations,
} from '@modelcontextprotocol/server'
import type * as z from 'zod'
import type { Call } from './call.ts'
import type { JsonObject, SessionState } from './state.ts'

/**
 * What a server offers, and all that the rest of the code knows of it: an entry gives its pack to
 * the session runtime. The same pack runs on every topology.
 */
export interface Pack {
  /** What clients are told they talk to. */
  readonly name?: string
  readonly version?: string
  readonly tools: readonly Tool[]
  readonly resources?: readonly StateResource[]
  /**
   * Straight on the SDK's server, for what needs neither state nor a journal; calls of `tools` go past
   * it. `notifier` tells of changed lists to those who listen in the stateless revision.
   */
  readonly extend?: (server: McpServer, notifier?: ServerNotifier) => void
  /** Makes the SDK's server that all this is put on, one for each session; see `fromMcpServer`. */
  readonly server?: () => McpServer
}

/**
 * What a server offers that is written for the SDK alone, as a pack. `create` makes a new one on each
 * call. Its handlers run in sessions: what they say and ask outlives them, and a reply is recorded.
 * They know of no `Call`, so the state of a session and journaled steps are for tools beside them.
 */
export function fromMcpServer(create: () => McpServer): Pack {
  return { tools: [], server: create }
}

/** Whether `request` calls a tool that knows of no `Call`. */
export function isForeign({ method, params }: JSONRPCRequest, { server, tools }: Pack): boolean {
  if (server === undefined || method !== 'tools/call') return false
  return tools.every(({ name }) => name !== params?.['name'])
}

/** A function over a session, with all effects through `call`. Its result is a JSON object. */
export interface Tool<Input extends z.ZodObject = z.ZodObject> {
  readonly name: string
  readonly description: string
  readonly input: Input
  readonly annotations?: ToolAnnotations
  /** It neither reads nor changes a session's state, so it needs no session. */
  readonly stateless?: boolean
  run(call: Call, input: z.output<Input>): Promise<JsonObject>
}

/** Only for its types: `input` says what `run` gets. */
export function defineTool<Input extends z.ZodObject>(tool: Tool<Input>): Tool<Input> {
  return tool
}

/** A resource that shows the state of one session. */
export interface StateResource {
  readonly name: string
  readonly description: string
  readonly mimeType: string
  /** A URI template with the variable `session_id`. */
  readonly template: string
  /** The URI that shows session `id`; subscribers are told when its state changes. */
  uriOf(id: string): string
  read(shown: { session: string; state: SessionState; instance: string }): string
}
