import { SessionObject } from '../../durable-objects/mcp-session.ts'
import { createWorker } from '../../worker/create-worker.ts'
import { fixtures } from './fixtures.ts'

export { SessionIndex } from '../../durable-objects/session-index.ts'

export class McpSession extends SessionObject {
  protected override readonly pack = fixtures
}

export default createWorker(fixtures)
