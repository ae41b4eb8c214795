import {
  fromJsonSchema,
  McpServer,
  ResourceNotFoundError,
  ResourceTemplate,
  type ServerContext,
} from '@modelcontextprotocol/server'
import type { Call } from './call.ts'
import { REVISIONS } from './revisions.ts'
import type { SessionState } from './state.ts'
import type { Pack, StateResource, Tool } from './tool.ts'

/** What a pack's tools and resources need of the session they are served in. */
export interface ServerHost {
  readonly instance: string
  callOf(ctx: ServerContext): Call
}

// Open on purpose: a closed schema makes some clients build a class of it, and results are
// objects with a key more in a later release. That a result is an object its type has made sure of.
const ANY_OBJECT = fromJsonSchema(
  { type: 'object', additionalProperties: true },
  { getValidator: () => (data) => ({ valid: true, data: data as never, errorMessage: undefined }) },
)

/** An SDK server with everything in `pack`. One per live session: it remembers its client. */
export function createServer(pack: Pack, host: ServerHost): McpServer {
  const { name, version } = pack
  const instructions = `Stateful MCP server instance: ${host.instance}`
  const capabilities = { logging: {}, resources: { subscribe: true } }
  const options = { capabilities, instructions, supportedProtocolVersions: REVISIONS }
  const server = new McpServer({ name, version }, options)
  for (const tool of pack.tools) addTool(server, tool, host)
  for (const resource of pack.resources ?? []) addResource(server, resource, host)
  server.server.setRequestHandler('resources/subscribe', () => ({}))
  server.server.setRequestHandler('resources/unsubscribe', () => ({}))
  pack.extend?.(server)
  return server
}

function addTool(server: McpServer, tool: Tool, host: ServerHost): void {
  const { name, description, input, annotations = {} } = tool
  const config = { description, inputSchema: input, outputSchema: ANY_OBJECT, annotations }
  server.registerTool(name, config, async (args, ctx) => {
    const result = await tool.run(host.callOf(ctx), args)
    return {
      content: [{ type: 'text', text: JSON.stringify(result) }],
      structuredContent: result,
      isError: false,
    }
  })
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
      const state: SessionState | undefined = await host.callOf(ctx).stateOf(session)
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
