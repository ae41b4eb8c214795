import { createMemoryStore } from '../../../mcp/session/memory-store.ts'
import type { SessionId } from '../../../mcp/session/ids.ts'
import { sessionStoreContract } from '../../contract/session-store.ts'

const ttlMs = 30 * 60 * 1000

sessionStoreContract('memory', async (body) => {
  let now = 1_000_000
  const limits = { replyRetentionMs: 300_000, maxRepliesPerSession: 1024, standaloneTail: 1024 }
  const store = createMemoryStore({ ttlMs, now: () => now, ...limits })
  const advance = (ms: number): void => void (now += ms)
  await body({
    store,
    id: 'a-session' as SessionId,
    advance,
    ttlMs,
    graceMs: 1,
    settles: true,
    retentionMs: 300_000,
  })
})
