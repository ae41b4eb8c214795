import { createSessionObject, type Env } from '../durable-objects/create-session-object.ts'
import { tools } from '../mcp/tools/index.ts'
import { createWorker } from './create-worker.ts'

export { SessionIndex } from '../durable-objects/create-session-object.ts'

export const McpSession = createSessionObject(tools)

export default createWorker(tools) satisfies ExportedHandler<Env>
