import {
  fromJsonSchema,
  McpServer,
  ResourceNotFoundError,
  ResourceTemplate,
  type CallToolResult,
  type InputRequiredResult,
  type ServerContext,
  type ServerNotifier,
} from '@modelcontextprotocol/server'
import type * as z from 'zod'
import type { JsonObject, SessionState } from './state.ts'
import type { Pack, StateResource, Tool } from './tool.ts'

/** Who runs what a pack offers. */
export interface ServerHost {
  readonly instance: string
  run(
    tool: Tool,
    input: JsonObject,
    ctx: ServerContext,
  ): Promise<CallToolResult | InputRequiredResult>
  /** The state of a session of the caller's; `undefined` if there is none. */
  stateOf(session: string, ctx: ServerContext): Promise<SessionState | undefined>
}

// Open on purpose: a closed schema makes some clients build a class of it, and results are
// objects with a key more in a later release. That a result is an object its type has made sure of.
const ANY_OBJECT = fromJsonSchema(
  { type: 'object', additionalProperties: true },
  { getValidator: () => (data) => ({ valid: true, data: data as never, errorMessage: undefined }) },
)

export interface ServerOptions {
  /** The protocol revisions that are served. */
  readonly revisions: readonly string[]
  readonly notifier?: ServerNotifier
}

// The lists change with a release only, and are the same for everybody.
const LIST = { ttlMs: 60_000, cacheScope: 'public' } as const
const CACHE_HINTS = {
  'server/discover': LIST,
  'tools/list': LIST,
  'prompts/list': LIST,
  'resources/list': LIST,
  'resources/templates/list': LIST,
}

/** An SDK server with everything in `pack`. It serves one client at a time. */
export function createServer(pack: Pack, host: ServerHost, options: ServerOptions): McpServer {
  const server = pack.server?.() ?? ownServer(pack, host, options)
  server.server.registerCapabilities({ logging: {} })
  for (const tool of pack.tools) addTool(server, tool, host)
  for (const resource of pack.resources ?? []) addResource(server, resource, host)
  if (server.server.getCapabilities().resources) {
    server.server.registerCapabilities({ resources: { subscribe: true } })
    server.server.setRequestHandler('resources/subscribe', () => ({}))
    server.server.setRequestHandler('resources/unsubscribe', () => ({}))
  }
  pack.extend?.(server, options.notifier)
  return server
}

function ownServer(pack: Pack, host: ServerHost, { revisions }: ServerOptions) {
  return new McpServer(serverInfoOf(pack), {
    capabilities: { resources: {} },
    instructions: `Stateful MCP server instance: ${host.instance}`,
    cacheHints: CACHE_HINTS,
    supportedProtocolVersions: [...revisions],
  })
}

export function serverInfoOf({ name = 'holdfast', version = '0.0.0' }: Pack) {
  return { name, version }
}

function addTool(server: McpServer, tool: Tool, host: ServerHost): void {
  const { name, description, input, annotations = {} } = tool
  const inputSchema = readOnce(input)
  const config = { description, inputSchema, outputSchema: ANY_OBJECT, annotations }
  server.registerTool(name, config, (args, ctx) => host.run(tool, args as JsonObject, ctx))
}

const read = new WeakMap<z.ZodObject, ReturnType<typeof readSchema>>()

/** The tool's schema, whose JSON form is made once for all servers and lists. */
function readOnce(input: z.ZodObject): ReturnType<typeof readSchema> {
  const known = read.get(input) ?? readSchema(input)
  read.set(input, known)
  return known
}

function readSchema(input: z.ZodObject) {
  const standard = input['~standard']
  let json: Record<string, unknown> | undefined
  const once: typeof standard.jsonSchema.input = (options) =>
    (json ??= standard.jsonSchema.input(options))
  const { version, vendor, validate } = standard
  return { '~standard': { version, vendor, validate, jsonSchema: { input: once, output: once } } }
}

function addResource(server: McpServer, resource: StateResource, host: ServerHost): void {
  const { name, description, mimeType, template } = resource
  const list = { list: undefined }
  server.registerResource(
    name,
    new ResourceTemplate(template, list),
    { description, mimeType },
    async (uri, { session_id: id }, ctx) => {
      const session = String(id)
      const state = await host.stateOf(session, ctx)
      if (state === undefined) throw new ResourceNotFoundError(uri.href)
      const text = resource.read({ session, state, instance: host.instance })
      return { contents: [{ uri: uri.href, mimeType, text }] }
    },
  )
}

/** `__proto__` as a key of its own is lost on the way to a tool's schema, so it is refused here. */
export function refuseUnsafeKeys(value: unknown): void {
  if (typeof value !== 'object' || value === null) return
  if (Object.hasOwn(value, '__proto__')) throw new Error('Unrecognized key: "__proto__"')
  for (const part of Object.values(value)) refuseUnsafeKeys(part)
}
