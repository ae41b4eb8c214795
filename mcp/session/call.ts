import type {
  CreateMessageRequestParamsBase,
  CreateMessageResultWithTools,
  ElicitRequestFormParams,
  ElicitResult,
  JSONRPCNotification,
  LoggingLevel,
  ProgressToken,
} from '@modelcontextprotocol/server'
import type { Status } from '../status.ts'
import { sleep, type Clock } from './clock.ts'
import type { Principal } from './ids.ts'
import type { StateOf } from './router.ts'
import type { JsonValue, SessionState } from './state.ts'

/**
 * What a tool sees of the world, and the only way it may touch it. Everything here is either
 * answered anew or recorded, so that a tool is a function of what its call tells it.
 */
export interface Call {
  /** The id of the session the call belongs to. */
  readonly session: string
  /** Who serves the call: an instance of the fleet, or an object's incarnation on the edge. */
  readonly instance: string
  /** Aborted when the client cancels the call or the session ends. */
  readonly signal: AbortSignal

  /** The session's state. */
  read(): Promise<SessionState>
  /**
   * Changes the state, once per logical call, and answers the new one. `change` must be pure: it
   * runs again when another commit came first. What it throws fails the call and changes nothing;
   * what the tool throws later does not take the change back.
   */
  update(change: (state: SessionState) => SessionState): Promise<SessionState>
  /** The state of another session of the same principal; `undefined` if there is none. */
  stateOf(session: string): Promise<SessionState | undefined>

  /** Sends a log message on the call's stream, unless the client asked for graver ones only. */
  log(level: LoggingLevel, text: string): Promise<void>
  /** Sends progress on the call's stream, if the client gave a token for it. */
  progress(done: number, total: number, message: string): Promise<void>
  sleep(ms: number): Promise<void>
  /** Milliseconds since the epoch. */
  now(): Promise<number>
  /** Of the whole server: how many sessions have state, and for how long this instance runs. */
  status(): Promise<{ sessions: number; uptimeSeconds: number }>
  /**
   * Runs an effect outside the session's state, at least once. `fn` gets a key that is the same
   * however often this step runs, to pass on to whoever can tell repeats.
   */
  step<T extends JsonValue>(name: string, fn: (key: string) => Promise<T>): Promise<T>
  /** Asks the user to fill in a form. Throws if the client can't. */
  elicit(form: ElicitRequestFormParams): Promise<ElicitResult>
  /** Asks the client's model. Throws if the client can't. */
  sample(request: CreateMessageRequestParamsBase): Promise<CreateMessageResultWithTools>
}

/** Does what a call asks for, or knows what came of it when it was done before. */
export interface Operator extends Pick<Call, 'signal' | 'read' | 'update' | 'step'> {
  /** What `make` answers, or that it failed: recorded before the tool is told. */
  record<T extends JsonValue>(what: string, make: () => T | Promise<T>): Promise<T>
  /** The same for what may be recorded later, with what is said or done next. */
  recall<T extends JsonValue>(what: string, make: () => T | Promise<T>): Promise<T>
  /** Sends a notification; one that is muted is only counted. */
  say(message: JSONRPCNotification, muted?: boolean): Promise<void>
}

export interface CallOptions extends Pick<Call, 'session' | 'instance'> {
  readonly principal: Principal
  readonly clock: Clock
  readonly status: Status
  readonly stateOf: StateOf
  /** The least grave level that is sent. */
  readonly logLevel: () => LoggingLevel | 'none'
  readonly progressToken: ProgressToken | undefined
  /** Puts questions to the client. */
  readonly asks: Pick<Call, 'elicit' | 'sample'>
}

export function createCall(operations: Operator, options: CallOptions): Call {
  const { session, principal, instance, clock, status, stateOf, asks } = options
  return {
    session,
    instance,
    // Made for those who look.
    get signal() {
      return operations.signal
    },

    read: () => minded(operations.read()),
    update: (change) => minded(operations.update(change)),
    stateOf(other) {
      if (other === session) return minded(operations.read())
      const look = async () => (await stateOf(other, principal)) ?? null
      return minded(operations.recall('stateOf', look).then((state) => state ?? undefined))
    },

    log(level, text) {
      const params = { level, data: { msg: text, extra: null } }
      const muted = LEVELS.indexOf(level) < LEVELS.indexOf(options.logLevel())
      const message = { jsonrpc: '2.0', method: 'notifications/message', params } as const
      return minded(operations.say(message, muted))
    },
    progress(done, total, message) {
      const { progressToken } = options
      const params = { progressToken, progress: done, total, message }
      const said = { jsonrpc: '2.0', method: 'notifications/progress', params } as const
      // Each round may have a token or none: what was not sent is counted all the same.
      return minded(operations.say(said, progressToken === undefined))
    },
    sleep(ms) {
      const until = operations.record('sleep', () => clock.now() + ms)
      const rest = (end: number): number => Math.max(0, end - clock.now())
      return minded(until.then((end) => sleep(clock, rest(end), operations.signal)))
    },
    now: () => minded(operations.recall('now', () => clock.now())),
    status() {
      const uptimeSeconds = (clock.now() - status.startedAt) / 1000
      const look = async () => ({ sessions: await status.countSessions(), uptimeSeconds })
      return minded(operations.recall('status', look))
    },
    step: (name, fn) => minded(operations.step(name, fn)),
    elicit: (form) => minded(asks.elicit(form)),
    sample: (request) => minded(asks.sample(request)),
  }
}

const ignore = (): void => undefined

/** Ends no process where nobody looks at it: a tool may have been told of the end by another operation. */
function minded<T>(operation: Promise<T>): Promise<T> {
  operation.catch(ignore)
  return operation
}

// From the least grave.
const LEVELS: readonly (LoggingLevel | 'none')[] = [
  'debug',
  'info',
  'notice',
  'warning',
  'error',
  'critical',
  'alert',
  'emergency',
  'none',
]
