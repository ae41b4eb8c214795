import * as z from 'zod'
import { defineTool, type Pack, type Tool } from './tool.ts'

/** Where a tool's session is named by an argument: the header in which clients repeat it. */
export const HANDLE_HEADER = 'mcp-param-session'

const HANDLE = z
  .string({ error: 'Call open_session first, and pass the session that it answers' })
  .meta({ description: 'What open_session has answered.', 'x-mcp-header': 'Session' })

/**
 * The pack as it is served where requests have no session of their own: each tool that needs one is
 * told which by its argument `session`, and `open_session` opens one. Throws for a pack that can't be served.
 */
export function withHandles(pack: Pack, ttlMs: number): Pack {
  const tools = pack.tools.map((tool) => (tool.stateless ? tool : withHandle(tool)))
  const needed = pack.tools.some(({ stateless }) => !stateless)
  const served = needed ? [openSession(ttlMs), ...tools] : tools
  const names = served.map(({ name }) => name)
  const twice = names.find((name, at) => names.indexOf(name) !== at)
  if (twice !== undefined)
    throw new Error(`Cannot serve tool "${twice}": there are two of that name`)
  return { ...pack, tools: served }
}

/** Only its definition: who serves it knows how to open one. */
function openSession(ttlMs: number): Tool {
  const minutes = Math.round(ttlMs / 6000) / 10
  return defineTool({
    name: OPEN_SESSION,
    description: `Opens a session, to be passed to the tools that need one. It lives until ${minutes} minutes after its last use.`,
    input: z.strictObject({}),
    stateless: true,
    run: () => Promise.reject(new Error('Cannot open session here')),
  })
}

export const OPEN_SESSION = 'open_session'

/** Whether clients repeat none of the tool's own arguments in headers. */
export function hasPlainHeaders({ input }: Tool): boolean {
  const { session: _, ...own } = input.shape
  return !JSON.stringify(z.toJSONSchema(z.object(own), { io: 'input' })).includes('x-mcp-header')
}

function withHandle(tool: Tool): Tool {
  if ('session' in tool.input.shape) {
    throw new Error(`Cannot serve tool "${tool.name}": its input may have no "session" of its own`)
  }
  return { ...tool, input: tool.input.extend({ session: HANDLE }) }
}
