import { serveNode } from 'holdfast/node'
import { reporting } from './tools.ts'

await serveNode(reporting)
