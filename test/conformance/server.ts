/** One Node instance that serves what the official suites call. */
import { serveNode } from '../../haproxy-compat/serve-node.ts'
import { fixtures } from './fixtures.ts'

await serveNode(fixtures)
