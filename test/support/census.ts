import { isServerError } from '../../mcp/errors.ts'
import type { Census } from '../../mcp/session/census.ts'
import type { SessionId } from '../../mcp/session/ids.ts'
import type { SessionRecord } from '../../mcp/session/store.ts'

/** As much of a session as a census looks at. */
export function recordOf(source: string): SessionRecord {
  return { source, version: 0 } as SessionRecord
}

export async function isAdmitted(census: Census, id: SessionId, source: string): Promise<boolean> {
  try {
    await census.admit(id, source)
    return true
  } catch (error) {
    if (isServerError(error) && error.code === 'too_many_sessions') return false
    throw error
  }
}
