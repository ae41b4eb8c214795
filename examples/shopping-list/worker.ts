import { createSessionObject } from 'holdfast/durable-object'
import { createWorker } from 'holdfast/worker'
import { shop } from './tools.ts'

export { SessionIndex } from 'holdfast/durable-object'
export const McpSession = createSessionObject(shop)
export default createWorker(shop)
