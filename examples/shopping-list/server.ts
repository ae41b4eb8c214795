import { serveNode } from 'holdfast/node'
import { shop } from './tools.ts'

await serveNode(shop)
