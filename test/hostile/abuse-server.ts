/** An instance with one tool more, which says much outside of its call. Run as a program. */
import { setTimeout as sleep } from 'node:timers/promises'
import * as z from 'zod'
import { serveNode } from '../../haproxy-compat/serve-node.ts'
import { tools } from '../../mcp/tools/index.ts'

/** For whoever starts it. */
export const SHOUTING_SERVER = import.meta.filename

const shout = {
  inputSchema: z.object({ messages: z.int(), size: z.int() }),
  outputSchema: z.object({ messages: z.int() }),
}

if (process.argv[1] === SHOUTING_SERVER) {
  await serveNode({
    ...tools,
    extend(server) {
      server.registerTool('shout', shout, async ({ messages, size }) => {
        for (let at = 0; at < messages; at++) {
          await server.sendLoggingMessage({ level: 'info', data: `${at} ${'x'.repeat(size)}` })
          // So that what can be sent is sent, and not what is said at once taken for too much.
          await sleep(5)
        }
        return { content: [], structuredContent: { messages } }
      })
    },
  })
}
