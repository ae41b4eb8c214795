/** A Cloudflare Agent that does as it is told: connects to an MCP server, and calls its tools. */
import { Agent, routeAgentRequest } from 'agents'

const SERVER = 'server'

/** What the test sends: the name of a method, and what it takes. */
type Order =
  | { readonly do: 'connect'; readonly url: string; readonly mode: 'legacy' | 'auto' }
  | { readonly do: 'call'; readonly name: string; readonly args: Record<string, unknown> }
  | { readonly do: 'read'; readonly uri: string }
  | { readonly do: 'reset' }
  | { readonly do: 'close' }

export class ClientAgent extends Agent {
  constructor(ctx: DurableObjectState, env: Cloudflare.Env) {
    super(ctx, env)
    // Not in onStart: after a reset that would replace a client that is connecting already.
    this.mcp.configureElicitationHandlers({
      form: () => Promise.resolve({ action: 'accept', content: { confirm: true } }),
    })
  }

  override async onRequest(request: Request): Promise<Response> {
    try {
      return Response.json((await this.obey(await request.json())) ?? null)
    } catch (error) {
      return new Response(String(error), { status: 500 })
    }
  }

  private async obey(order: Order): Promise<unknown> {
    // After a reset it connects again by itself, and doesn't wait for that by itself.
    await this.mcp.waitForConnections()
    switch (order.do) {
      case 'connect':
        return this.connectTo(order.url, order.mode)
      case 'call':
        return this.call(order.name, order.args)
      case 'read':
        return this.mcp.readResource({ serverId: SERVER, uri: order.uri }, {})
      case 'reset':
        return this.ctx.abort('as told')
      case 'close':
        return this.removeMcpServer(SERVER)
    }
  }

  private async connectTo(url: string, mode: 'legacy' | 'auto'): Promise<unknown> {
    // An Agent negotiates the revision unless it is told not to.
    const client = mode === 'auto' ? {} : { versionNegotiation: { mode } }
    await this.addMcpServer('server', url, { id: SERVER, client })
    const { protocolVersion, sessionId } = this.connection()
    return { revision: protocolVersion, session: sessionId, tools: this.mcp.listTools() }
  }

  private async call(name: string, args: Record<string, unknown>): Promise<unknown> {
    const { client } = this.connection()
    const levels: string[] = []
    client.setNotificationHandler('notifications/message', ({ params }) => {
      levels.push(params.level)
    })
    const progress: number[] = []
    const onprogress = (step: { progress: number }): void => void progress.push(step.progress)
    const meta = { 'io.modelcontextprotocol/logLevel': 'debug' }
    const tool = { serverId: SERVER, name, arguments: args, _meta: meta }
    return { result: await this.mcp.callTool(tool, { onprogress }), heard: { levels, progress } }
  }

  private connection(): (typeof this.mcp.mcpConnections)[string] {
    const connection = this.mcp.mcpConnections[SERVER]
    if (connection === undefined) throw new Error('Cannot call: the agent is not connected')
    return connection
  }
}

export default {
  async fetch(request: Request, env: Cloudflare.Env): Promise<Response> {
    if (new URL(request.url).pathname === '/ready') return new Response('ready')
    return (await routeAgentRequest(request, env)) ?? new Response(null, { status: 404 })
  },
}
