import * as z from 'zod'
import type { SessionId } from './session/ids.ts'
import type { SessionRecord } from './session/store.ts'

/** What the people who run a server see of it, and what they can do. */
export interface Operator {
  overview(): Promise<Overview>
  /** Ends the session, whoever's it is. False if there is none. */
  end(name: SessionName): Promise<boolean>
  /** What happens in the session from now on, until `signal`; `undefined` if there is none. */
  follow(name: SessionName, signal: AbortSignal): Promise<AsyncIterable<Happening> | undefined>
  /**
   * Has the instance take no more calls, and its sessions go on elsewhere; or take them again. False
   * if there is none. Unset where instances are the platform's.
   */
  readonly drain?: (instance: string, isDrained: boolean) => Promise<boolean>
}

/** Names a session to its operators, who can't use it by that: 16 hex digits of its id's SHA-256. */
export type SessionName = string & { readonly brand: 'SessionName' }

export async function nameOf(id: SessionId): Promise<SessionName> {
  const hash = new Uint8Array(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(id)))
  const digits = Array.from(hash.subarray(0, 8), (byte) => byte.toString(16).padStart(2, '0'))
  return digits.join('') as SessionName
}

/** What is shown of a session id. */
export function shortId(id: string): string {
  return id.slice(0, 8)
}

const MAX_CLIENT_CHARS = 100

/** What is shown of a session's record. */
export function shownOf({
  principal,
  initialize,
}: SessionRecord): Pick<SessionView, 'principal' | 'client' | 'revision'> {
  const { clientInfo, protocolVersion } = shownParams.parse(initialize)
  return {
    principal: principal.slice(0, 12),
    // A client may call itself what is no text, or be cut where it is none; JSON is not read alike then.
    client: `${clientInfo.name} ${clientInfo.version}`.slice(0, MAX_CLIENT_CHARS).toWellFormed(),
    revision: protocolVersion,
  }
}

// Whatever a store may hold: what shows it must not fail.
const shownParams = z.object({
  protocolVersion: z.string().catch('?'),
  clientInfo: z
    .object({ name: z.string(), version: z.string() })
    .catch({ name: '?', version: '?' }),
})

/** A server at one moment. Plain data: it crosses machines. All times in milliseconds since the epoch. */
export interface Overview {
  readonly at: number
  readonly topology: 'edge' | 'fleet' | 'node'
  readonly sessions: {
    /** All that live. */
    readonly total: number
    /** Those used last, the latest first; 200 at most. */
    readonly latest: readonly SessionView[]
  }
  /** Where they are known. */
  readonly instances: readonly InstanceView[]
  /** What went on elsewhere, the latest first; 50 at most. */
  readonly failovers: readonly Failover[]
}

export interface SessionView {
  readonly name: SessionName
  /** The first 8 characters. */
  readonly id: string
  /** The first 12 characters. */
  readonly principal: string
  /** What the client calls itself, and its version. */
  readonly client: string
  readonly revision: string
  /** The instance that had it last; on the edge its object's. */
  readonly holder: string
  readonly openedAt: number
  readonly usedAt: number
  /** If it is not used again. */
  readonly expiresAt: number
  /** Since it is known to this server's board. */
  readonly calls: number
  /** That are followed now. */
  readonly streams: number
  /** Calls that run now. */
  readonly running: number
}

export interface InstanceView {
  readonly name: string
  /** `lost`: it has said nothing for a while. */
  readonly state: 'ready' | 'draining' | 'lost'
  readonly startedAt: number
  readonly reportedAt: number
  /** Sessions in its memory. */
  readonly sessions: number
  readonly streams: number
  readonly running: number
  readonly residentBytes: number
  /** How much of a core it has used since its last report, 0 to 1 and a bit. */
  readonly load: number
  // Since it started:
  readonly calls: number
  readonly errors: number
  /** Calls by how long they took: one count for each of `LATENCY_MS`, and one for those above. */
  readonly latencies: readonly number[]
  /** By reason: an error's code, or `unauthorized`. */
  readonly refusals: Readonly<Record<string, number>>
}

/** Upper bounds of latencies that are counted together, in milliseconds. */
export const LATENCY_MS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000] as const

export interface Failover {
  readonly at: number
  /** `restored`: a session, elsewhere or here again. `taken_over`: a call that ran. */
  readonly kind: 'restored' | 'taken_over'
  /** The first 8 characters of the session's id. */
  readonly id: string
  /** Where it goes on. */
  readonly instance: string
  /** Where it was before, if that is known. */
  readonly from?: string | undefined
  readonly tookMs: number
}

/** Something that happened in a session, without what it was about. */
export interface Happening {
  readonly at: number
  readonly kind: 'changed' | 'grown' | 'followed' | 'ended'
  /** The new version of its state. */
  readonly version?: number | undefined
  readonly stream?: string | undefined
  /** The place of the stream's last entry. */
  readonly last?: number | undefined
}
