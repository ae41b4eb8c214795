import { canonical } from '../mcp/session/identity.ts'
import type { Principal, SessionId, StreamId } from '../mcp/session/ids.ts'
import type { Commit, Entry, Reply, SessionStore } from '../mcp/session/store.ts'

/** A fresh store, the id of a session that it does not hold yet, and a hand on its clock. */
export interface StoreUnderTest {
  readonly store: SessionStore
  readonly id: SessionId
  readonly advance: (ms: number) => void | Promise<void>
  /** What the store does with an unused session after its time to live, in milliseconds. */
  readonly ttlMs: number
  /** A use may be recorded this much later than it was, never earlier. */
  readonly graceMs: number
  /** How long a reply record is kept. */
  readonly retentionMs: number
  /** Whether records go as soon as their router has settled them, or by age alone. */
  readonly settles: boolean
}

export type UseStore = (body: (under: StoreUnderTest) => Promise<void>) => Promise<void>

type Body = (under: StoreUnderTest) => Promise<void>

/** Checks by their names. Each throws if the store that it is lent does not keep the contract. */
export type Cases = Readonly<Record<string, (useStore: UseStore) => Promise<void>>>

export function onStore(body: Body): Cases[string] {
  return (useStore) => useStore(body)
}

/** The same, in a session that has just begun. */
export function inSession(body: Body): Cases[string] {
  return onStore(async (under) => {
    await under.store.commit(under.id, { begin })
    await body(under)
  })
}

export const standalone = 'standalone00' as StreamId
export const begin = {
  principal: 'me' as Principal,
  initialize: { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: {} },
  standalone,
}

export function change(from: number, state: NonNullable<Commit['change']>['state']): Commit {
  return { change: { from, state } }
}

export function reply(key: string, value: number): Reply {
  return { key, fingerprint: 'f', answer: { kind: 'reply', outcome: { result: { value } } } }
}

export function message(n: number): Entry {
  return { kind: 'message', message: { jsonrpc: '2.0', method: 'test', params: { n } } }
}

/** Both are JSON; a key that is `undefined` is none. */
export function equal(actual: unknown, expected: unknown): void {
  if (canonical(actual) === canonical(expected)) return
  throw new Error(`Expected ${canonical(expected)}, but it is ${canonical(actual)}`)
}

/** `actual` has all that `part` has, and may have more keys. */
export function matches(actual: unknown, part: object): void {
  if (typeof actual !== 'object' || actual === null) equal(actual, part)
  for (const [key, value] of Object.entries(part)) {
    const found = (actual as Readonly<Record<string, unknown>>)[key]
    if (isPlain(value)) matches(found, value)
    else equal(found, value)
  }
}

function isPlain(value: unknown): value is object {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
