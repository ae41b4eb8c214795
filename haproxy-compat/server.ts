/** One Node instance: `npm run node`, and each server of the fleet. */
import { tools } from '../mcp/tools/index.ts'
import { serveNode } from './serve-node.ts'

await serveNode(tools)
