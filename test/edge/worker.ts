import type { Env } from '../../durable-objects/env.ts'
import { SessionObject } from '../../durable-objects/mcp-session.ts'
import { tools } from '../../mcp/tools/index.ts'
import { createWorker } from '../../worker/create-worker.ts'

export { SessionIndex } from '../../durable-objects/session-index.ts'

/** A session object that can be made to lose its memory, as a crash and a deploy make it. */
export class McpSession extends SessionObject {
  protected override readonly pack = tools

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env)
    woken.add(ctx.id.toString())
  }

  crash(): void {
    this.ctx.abort('test')
  }
}

interface ResettableEnv extends Env {
  readonly SESSION_OBJECTS: DurableObjectNamespace<McpSession>
}

const woken = new Set<string>()
const edge = createWorker(tools)

export default {
  async fetch(request, env, ctx) {
    if (new URL(request.url).pathname !== '/reset') return edge.fetch?.(request, env, ctx)
    const { SESSION_OBJECTS } = env
    const resets = [...woken].map((id) =>
      SESSION_OBJECTS.get(SESSION_OBJECTS.idFromString(id)).crash(),
    )
    await Promise.allSettled(resets)
    return new Response(String(resets.length))
  },
} as ExportedHandler<ResettableEnv>
