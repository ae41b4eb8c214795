/**
 * The floor: the least that can serve a counter over MCP from a Durable Object. No SDK, no
 * schemas, no streams, no replies kept, one row a call. What a call costs below this line is the
 * platform's.
 */
import { DurableObject } from 'cloudflare:workers'

interface Env {
  readonly SESSIONS: DurableObjectNamespace<Floor>
}

interface Message {
  readonly id?: number
  readonly method: string
}

export class Floor extends DurableObject<Env> {
  handle(body: string): string | null {
    const { id, method } = JSON.parse(body) as Message
    if (id === undefined) return null
    const result = this.#answer(method)
    return JSON.stringify({ jsonrpc: '2.0', id, result })
  }

  #answer(method: string): unknown {
    switch (method) {
      case 'initialize':
        this.ctx.storage.kv.put('session', { counter: 0 })
        return {
          protocolVersion: '2025-11-25',
          capabilities: { tools: {} },
          serverInfo: { name: 'floor', version: '0' },
        }
      default: {
        const { counter } = this.ctx.storage.kv.get('session') as { counter: number }
        this.ctx.storage.kv.put('session', { counter: counter + 1 })
        return { content: [{ type: 'text', text: JSON.stringify({ counter: counter + 1 }) }] }
      }
    }
  }
}

export default {
  async fetch(request, env) {
    const id = request.headers.get('mcp-session-id')
    const object = id === null ? env.SESSIONS.newUniqueId() : env.SESSIONS.idFromString(id)
    const reply = await env.SESSIONS.get(object).handle(await request.text())
    if (reply === null) return new Response(null, { status: 202 })
    const headers = { 'content-type': 'application/json', 'mcp-session-id': object.toString() }
    return new Response(reply, { headers })
  },
} satisfies ExportedHandler<Env>
