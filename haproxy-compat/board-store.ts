import type { InstanceView, Failover, SessionName } from '../mcp/operator.ts'
import type { SessionId } from '../mcp/session/ids.ts'
import type { Busy } from '../mcp/session/onlooker.ts'

/** Where the instances of a server put what each knows, and find what the others do. */
export interface BoardStore {
  /** Takes in what an instance has to say. Answers whether it is to take no more calls. */
  report(report: Report): Promise<{ readonly drained: boolean }>
  look(): Promise<Look>
  /** The id of a session that is on the board. */
  find(name: SessionName): Promise<SessionId | undefined>
  /** False if there is no such instance. */
  drain(instance: string, isDrained: boolean): Promise<boolean>
  /** The instance is no more, as it should be. */
  leave(instance: string): Promise<void>
}

export interface Report {
  readonly instance: string
  /** When its process began: another one may have had its name before. */
  readonly run: number
  readonly shown: InstanceReport
  readonly sessions: readonly SessionReport[]
  readonly ended: readonly SessionName[]
  readonly failovers: readonly FailoverReport[]
}

/** `state` is what it says of itself; that it is lost is for others to see. */
export type InstanceReport = Omit<InstanceView, 'name' | 'reportedAt'>

export interface SessionReport {
  readonly name: SessionName
  /** Since the last report. */
  readonly calls: number
  readonly streams: number
  readonly running: number
  /** Unset: it was not used, and need not be put up for this. */
  readonly use?: Use | undefined
}

/** What is known of a session by its use. */
interface Use {
  readonly id: SessionId
  readonly principal: string
  readonly client: string
  readonly revision: string
  /** As far as it is known here. */
  readonly openedAt: number
  readonly usedAt: number
}

/** `id` is cut already; where it was before is known by the board, or nobody. */
export interface FailoverReport extends Omit<Failover, 'instance' | 'from'> {
  readonly name: SessionName
}

/** The board at one moment, by the clock of its store. */
export interface Look {
  readonly at: number
  readonly instances: readonly Instance[]
  /** The latest first. */
  readonly sessions: readonly Session[]
  /** All that are on the board. */
  readonly total: number
  readonly failovers: readonly Failover[]
}

export interface Instance extends InstanceReport {
  readonly name: string
  readonly reportedAt: number
}

/** What the board has of a session. */
export interface Session extends Use {
  readonly name: SessionName
  readonly holder: string
  readonly calls: number
  /** By instance, and which run of it. */
  readonly busy: Readonly<Record<string, Busy & { readonly run: number }>>
}

export const SHOWN_SESSIONS = 200
export const SHOWN_FAILOVERS = 50
