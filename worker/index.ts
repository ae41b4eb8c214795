import type { Env } from '../durable-objects/env.ts'
import { SessionObject } from '../durable-objects/mcp-session.ts'
import { tools } from '../mcp/tools/index.ts'
import { createWorker } from './create-worker.ts'

export { SessionIndex } from '../durable-objects/session-index.ts'

export class McpSession extends SessionObject {
  protected override readonly pack = tools
}

export default createWorker(tools) satisfies ExportedHandler<Env>
