import { env } from 'cloudflare:workers'
import { runInDurableObject } from 'cloudflare:test'
import { describe, expect, it } from 'vitest'
import { createSqliteStore, type ObjectStore } from '../../durable-objects/sqlite-store.ts'
import type { Env } from '../../durable-objects/env.ts'
import { createStreamId, type Principal, type SessionId } from '../../mcp/session/ids.ts'
import { sessionStoreContract } from '../contract/session-store.ts'

const { SESSION_OBJECTS } = env as unknown as Env
const ttlMs = 30 * 60 * 1000
const touchMs = 60_000

sessionStoreContract('Durable Object', async (body) => {
  const stub = SESSION_OBJECTS.get(SESSION_OBJECTS.newUniqueId())
  await runInDurableObject(stub, async (_object, { storage, id }) => {
    let now = Date.now()
    const limits = { replyRetentionMs: 300_000, maxRepliesPerSession: 1024 }
    const store = createSqliteStore(storage, { ttlMs, touchMs, now: () => now, ...limits })
    const advance = (ms: number): void => void (now += ms)
    await body({
      store,
      id: id.toString() as SessionId,
      advance,
      ttlMs,
      graceMs: touchMs,
      settles: true,
      retentionMs: 300_000,
    })
  })
})

describe('what a Durable Object has on record of when its session was used', () => {
  const standalone = createStreamId()
  const begin = { principal: 'me' as Principal, initialize: {}, standalone }

  function useStorage(
    body: (open: () => ObjectStore, advance: (ms: number) => void, id: SessionId) => Promise<void>,
  ): Promise<void> {
    const stub = SESSION_OBJECTS.get(SESSION_OBJECTS.newUniqueId())
    return runInDurableObject(stub, async (_object, { storage, id }) => {
      let now = Date.now()
      const limits = { replyRetentionMs: 300_000, maxRepliesPerSession: 1024 }
      const open = (): ObjectStore =>
        createSqliteStore(storage, { ttlMs, touchMs, now: () => now, ...limits })
      await body(open, (ms) => void (now += ms), id.toString() as SessionId)
    })
  }

  it('outlives the object, be it read, changed or streamed to', () =>
    useStorage(async (open, advance, id) => {
      const first = open()
      await first.commit(id, { begin })
      advance(ttlMs - 1)
      const entry = { kind: 'message', message: { jsonrpc: '2.0', method: 'm' } } as const
      await first.commit(id, { append: [{ stream: standalone, at: 1, entries: [entry] }] })
      advance(ttlMs - 1)
      const second = open()
      expect(await second.load(id)).toBeDefined()
      advance(ttlMs - 1)
      expect(await open().load(id)).toBeDefined()
    }))

  it('does not take the alarm for a use', () =>
    useStorage(async (open, advance, id) => {
      const store = open()
      await store.commit(id, { begin })
      advance(ttlMs - touchMs)
      expect(await store.tick(false)).toBe(true)
      advance(2 * touchMs)
      expect(await store.load(id)).toBeUndefined()
      expect(await store.tick(false)).toBe(false)
    }))

  it('lets go of streams that ended long ago with the replies on them', () =>
    useStorage(async (open, advance, id) => {
      const store = open()
      const message = { jsonrpc: '2.0', id: 1, method: 'm' } as const
      await store.commit(id, { begin })
      const streams = [createStreamId(), createStreamId()]
      for (const stream of streams) {
        const answer = { kind: 'stream', stream, id: 1 } as const
        const entries = [{ kind: 'begin', request: message }] as const
        const reply = { key: stream, fingerprint: '', answer }
        await store.commit(id, { reply, append: [{ stream, at: 1, entries }] })
      }
      const [key = standalone] = streams
      const entries = [{ kind: 'end', message }] as const
      await store.commit(id, { append: [{ stream: key, at: 2, entries }] })
      advance(300_001)
      await store.tick(false)
      const left = streams.map(async (stream) => [
        (await open().load(id, { key: stream }))?.reply !== undefined,
        (await store.entries(id, stream, 0)) !== undefined,
      ])
      expect(await Promise.all(left)).toEqual([
        [false, false],
        [true, true],
      ])
    }))

  it('takes an open stream for a use at the alarm', () =>
    useStorage(async (open, advance, id) => {
      const store = open()
      await store.commit(id, { begin })
      advance(ttlMs)
      expect(await store.tick(true)).toBe(true)
      advance(ttlMs)
      expect(await open().load(id)).toBeDefined()
    }))
})
