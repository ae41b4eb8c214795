import { env } from 'cloudflare:workers'
import { runInDurableObject } from 'cloudflare:test'
import { createSqliteStore } from '../../durable-objects/sqlite-store.ts'
import type { Env } from '../../durable-objects/env.ts'
import type { SessionId } from '../../mcp/session/ids.ts'
import { sessionStoreContract } from '../contract/session-store.ts'

const { SESSIONS } = env as unknown as Env
const ttlMs = 30 * 60 * 1000
const touchMs = 60_000

sessionStoreContract('Durable Object', async (body) => {
  const stub = SESSIONS.get(SESSIONS.newUniqueId())
  await runInDurableObject(stub, async (_object, { storage, id }) => {
    let now = Date.now()
    const limits = { replyRetentionMs: 300_000, maxReplies: 1024 }
    const store = createSqliteStore(storage, { ttlMs, touchMs, now: () => now, ...limits })
    const advance = (ms: number): void => void (now += ms)
    await body({ store, id: id.toString() as SessionId, advance, ttlMs, graceMs: touchMs })
  })
})
