import * as z from 'zod'
import { defineTool } from '../session/tool.ts'

export const getServerInfo = defineTool({
  name: 'get_server_info',
  description: 'Names the instance that answers, and counts the sessions that have state.',
  input: z.strictObject({}),
  annotations: { readOnlyHint: true },
  stateless: true,
  async run(call) {
    const { sessions } = await call.status()
    return { instance: call.instance, sessions }
  },
})

export const getStatus = defineTool({
  name: 'get_status',
  description: 'Tells for how long the instance that answers has been running, and its time.',
  input: z.strictObject({}),
  annotations: { readOnlyHint: true },
  stateless: true,
  async run(call) {
    const { sessions, uptimeSeconds } = await call.status()
    return {
      instance: call.instance,
      uptime_seconds: Math.round(uptimeSeconds * 10) / 10,
      active_sessions: sessions,
      timestamp: timestamp(await call.now()),
    }
  },
})

/** ISO 8601 in UTC with microseconds and an offset, as Python writes it. */
function timestamp(ms: number): string {
  return new Date(ms).toISOString().replace('Z', '000+00:00')
}
