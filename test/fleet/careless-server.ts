/** An instance with a tool that does not look at what it has started. */
import * as z from 'zod'
import { serveNode } from '../../haproxy-compat/serve-node.ts'
import { defineTool } from '../../mcp/session/tool.ts'

const leave = defineTool({
  name: 'leave',
  description: 'Leaves a rejection behind.',
  input: z.strictObject({}),
  async run() {
    void Promise.reject(new Error('Nobody looks at this'))
    return {}
  },
})
await serveNode({ tools: [leave] })
