import { test } from 'node:test'
import type { SessionId } from 'holdfast'
import { sessionStoreContract, type UseStore } from 'holdfast/testing'
import { createFileStore } from './file-store.ts'

const ttlMs = 30 * 60_000
const retentionMs = 5 * 60_000

const useStore: UseStore = (body) => {
  let time = 1_000_000
  const store = createFileStore(':memory:', { ttlMs, now: () => time })
  const advance = (ms: number): void => void (time += ms)
  const id = 'a-session' as SessionId
  return body({ store, id, advance, ttlMs, graceMs: 1, retentionMs, settles: true })
}

for (const { name, check } of sessionStoreContract) await test(name, () => check(useStore))
