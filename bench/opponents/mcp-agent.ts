/** Cloudflare's own session host, used as its documentation shows it. */
import { McpServer } from '@modelcontextprotocol/sdk/server/mcp.js'
import { McpAgent } from 'agents/mcp'

interface State {
  readonly counter: number
}

export class Agent extends McpAgent<Cloudflare.Env, State> {
  override server = new McpServer({ name: 'mcp-agent', version: '0.0.0' })
  override initialState: State = { counter: 0 }

  override async init(): Promise<void> {
    this.server.registerTool(
      'increment_counter',
      { description: 'Adds one', inputSchema: {} },
      () => {
        this.setState({ counter: this.state.counter + 1 })
        const text = JSON.stringify({ counter: this.state.counter })
        return { content: [{ type: 'text', text }] }
      },
    )
  }
}

export default Agent.serve('/mcp', { binding: 'SESSIONS' })
