import { callTool, openSession, readEvents, send, toolCall, type Fetch } from '../support/mcp.ts'
import { askTool, replyTo } from '../support/stateless.ts'
import type { Known } from './fuzz.ts'

/** A new session with a note, an event that it has sent, and a question that it has asked. */
export async function knownOf(fetch: Fetch): Promise<Known> {
  const own = await openSession(fetch)
  await callTool(fetch, own, 'add_note', { note: 'of its own' })
  const stream = await send(fetch, own, toolCall('watch_counter', { duration_seconds: 1 }))
  let event = ''
  for await (const { id } of readEvents(stream)) {
    event = id
    break
  }
  const capabilities = { elicitation: {} }
  const asked = await replyTo(
    await fetch(askTool('clear_notes', { session: own }, { capabilities })),
  )
  return { own, event, requestState: String(asked.result?.['requestState']) }
}
