import * as z from 'zod'
import { defineTool } from '../session/tool.ts'
import { counter } from './state.ts'

const MAX_SECONDS = 30
const POLL_SECONDS = 0.5

export const watchCounter = defineTool({
  name: 'watch_counter',
  description: `Watches this session's counter for up to ${MAX_SECONDS} seconds and tells each change.`,
  input: z.strictObject({ duration_seconds: z.int() }),
  annotations: { readOnlyHint: true },
  async run(call, { duration_seconds }) {
    const seconds = Math.min(duration_seconds, MAX_SECONDS)
    let from = counter.get(await call.read())
    const changes: { from: number; to: number; at: number }[] = []
    await call.log('info', `Watching counter for ${seconds}s (current: ${from})`)

    for (let at = POLL_SECONDS; at <= seconds; at += POLL_SECONDS) {
      await call.sleep(POLL_SECONDS * 1000)
      await call.progress(at, seconds, 'Watching...')
      const to = counter.get(await call.read())
      if (to === from) continue
      changes.push({ from, to, at })
      await call.log('info', `Counter changed: ${from} -> ${to}`)
      from = to
    }

    await call.log('info', `Watch complete. ${changes.length} change(s) detected.`)
    return { changes, total_changes: changes.length, instance: call.instance }
  },
})
