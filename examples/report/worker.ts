import { createSessionObject } from 'holdfast/durable-object'
import { createWorker } from 'holdfast/worker'
import { reporting } from './tools.ts'

export { SessionIndex } from 'holdfast/durable-object'
export const McpSession = createSessionObject(reporting)
export default createWorker(reporting)
