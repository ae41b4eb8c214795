import * as z from 'zod'
import { defineTool } from '../session/tool.ts'

export const resumeSession = defineTool({
  name: 'resume_session',
  description:
    "Copies the state of another session of yours into this one, which must have none yet. An id that isn't yours, or is no more, counts as one without state.",
  input: z.strictObject({ old_session_id: z.string() }),
  async run(call, { old_session_id: old }) {
    const { instance } = call
    if (old === call.session) return { status: 'same_session', instance }
    const copied = (await call.stateOf(old)) ?? {}
    const keys = Object.keys(copied).length
    if (keys === 0) return { status: 'resumed', keys_copied: 0, instance }
    await call.update((own) => {
      if (Object.keys(own).length === 0) return copied
      throw new Error('Cannot resume session: target_not_empty, this session has state of its own')
    })
    return { status: 'resumed', keys_copied: keys, instance }
  },
})
