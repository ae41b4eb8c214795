import {
  CLIENT_CAPABILITIES_META_KEY,
  CLIENT_INFO_META_KEY,
  inputRequired,
  LOG_LEVEL_META_KEY,
  isSpecType,
  type CallToolResult,
  type ClientCapabilities,
  type InputRequests,
  type InputRequiredResult,
  type JSONRPCNotification,
  type JSONRPCRequest,
  type LoggingLevel,
  type ProgressToken,
  type ServerContext,
} from '@modelcontextprotocol/server'
import { httpStatusOf, isServerError, messageOf, type ServerError } from '../errors.ts'
import type { Log } from '../log.ts'
import { unmetered, type Meter } from '../meter.ts'
import type { Status } from '../status.ts'
import type { Call } from './call.ts'
import type { Clock } from './clock.ts'
import { OPEN_SESSION } from './handles.ts'
import { canonical, digestOf, hashOf, identify, type Identity } from './identity.ts'
import { randomText, type SessionId } from './ids.ts'
import { measuredCall } from './measured.ts'
import { failure, resultOf } from './own-tools.ts'
import { refusalOf } from './refusal.ts'
import { RequestStates, type Secrets } from './request-states.ts'
import { REVISIONS } from './revisions.ts'
import { createRoundCall, type RoundClient } from './round-call.ts'
import { runRound, Unaskable, type Question, type RoundRequest, type RoundState } from './round.ts'
import type { Post, Refused, SessionHolder, Unserved } from './router.ts'
import { refuseUnsafeKeys, type ServerHost } from './server.ts'
import type { JsonObject, SessionState } from './state.ts'
import type { RpcOutcome } from './store.ts'
import type { Pack, Tool } from './tool.ts'

export interface StatelessHostOptions {
  readonly pack: Pack
  readonly holder: SessionHolder
  readonly secrets: Secrets
  readonly instance: string
  readonly clock: Clock
  readonly log: Log
  readonly meter?: Meter | undefined
  readonly status: Status
  /** An unused session lives this long, and a question stays open. */
  readonly ttlMs: number
}

/** A request on its way through the SDK, which hands it to the tool untouched. */
export interface Caller {
  readonly post: Post
  readonly params: JsonObject
  /** What the rounds before this one have come to. */
  before?: RoundState
  /** What its tool has answered, for the SDK to put into words; the tool is not run for it again. */
  answer?: ToolAnswer
  /** Set if the session that the request names is there, and the caller's. */
  held?: true
  /** Set if the request is to be refused as a whole, and not its tool's call. */
  refusal?: Refused
}

type ToolAnswer = CallToolResult | InputRequiredResult

export type Said = Pick<JSONRPCNotification, 'method' | 'params'>

/** A request as the SDK hands it on, or as it is read where it goes past the SDK. */
export interface Asked {
  readonly caller: Caller
  /** What it says of its client; no revision but the stateless one has any. */
  readonly envelope: Record<string, unknown> | undefined
  readonly progressToken: ProgressToken | undefined
  /** The client's answers, by the number of the operation that asked. */
  readonly answers: Readonly<Record<string, unknown>>
  readonly signal: AbortSignal
  readonly say: (notification: Said) => Promise<void>
}

const CANCELLED = -32800
const INTERNAL_ERROR = -32603

// What a client finds out by trying: the same for an id that is unknown, expired, or another's.
const GONE = `Cannot find session: it has expired, or is none of yours. Call ${OPEN_SESSION} for a new one`

/** Runs tools for requests that have no session of their own, in the one that they name. */
export class StatelessHost implements ServerHost {
  readonly instance: string
  readonly #options: StatelessHostOptions
  readonly #states: RequestStates

  constructor(options: StatelessHostOptions) {
    this.#options = options
    this.instance = options.instance
    this.#states = new RequestStates(options.secrets, options.ttlMs)
  }

  /** Reads what the client has brought back. False if that is not what it was given for this call. */
  async goOn(caller: Caller): Promise<boolean> {
    const state = caller.params['requestState']
    if (state === undefined) return true
    const before = await this.#states.read(state, bindingOf(caller))
    if (before !== undefined) caller.before = before
    return before !== undefined
  }

  async stateOf(session: string, ctx: ServerContext): Promise<SessionState | undefined> {
    const caller = callerOf(ctx)
    const state = await this.#options.holder.stateOf(session, caller.post.principal)
    if (state !== undefined) caller.held = true
    return state
  }

  async run(tool: Tool, input: JsonObject, ctx: ServerContext): Promise<ToolAnswer> {
    return callerOf(ctx).answer ?? this.answer(tool, input, askedBy(ctx))
  }

  async answer(tool: Tool, input: JsonObject, asked: Asked): Promise<ToolAnswer & JsonObject> {
    const { clock, meter = unmetered } = this.#options
    const startedAt = clock.now()
    let outcome: RpcOutcome | ServerError = { error: {} }
    try {
      const result = await this.#run(tool, input, asked)
      outcome = { result }
      return result
    } catch (error) {
      if (isServerError(error)) outcome = error
      else outcome = { error: { code: asked.signal.aborted ? CANCELLED : INTERNAL_ERROR } }
      throw error
    } finally {
      const request = { method: 'tools/call', params: { name: tool.name } }
      meter(measuredCall(request, [tool], outcome, clock.now() - startedAt))
    }
  }

  async #run(tool: Tool, input: JsonObject, asked: Asked): Promise<ToolAnswer & JsonObject> {
    const { caller } = asked
    try {
      refuseUnsafeKeys(caller.params)
      if (tool.name === OPEN_SESSION) return resultOf(await this.#open(asked))
      const result = await this.#round(tool, input, asked)
      return (result ?? failure(GONE)) as CallToolResult & JsonObject
    } catch (error) {
      if (!isServerError(error)) throw error
      if (error.code === 'session_not_found') return failure(GONE)
      if (httpStatusOf(error.code) !== 200) refuse(caller, refusalOf(error, this.#options.log))
      throw error
    }
  }

  /** Begins a session as its client would have: one of an earlier revision may go on with it. */
  async #open({ caller, envelope = {} }: Asked): Promise<JsonObject> {
    const { holder, ttlMs, instance } = this.#options
    const { post } = caller
    const params = {
      protocolVersion: REVISIONS[0],
      capabilities: envelope[CLIENT_CAPABILITIES_META_KEY] ?? {},
      clientInfo: envelope[CLIENT_INFO_META_KEY] ?? { name: 'unknown', version: '0' },
    }
    const body = JSON.stringify({ jsonrpc: '2.0', id: 0, method: 'initialize', params })
    const opened = await holder.open({ principal: post.principal, source: post.source, body })
    if (opened.kind === 'opened') {
      return { session: opened.id, expires_after_seconds: ttlMs / 1000, instance }
    }
    refuse(caller, opened)
    throw new Error('Cannot open session')
  }

  async #round(tool: Tool, given: JsonObject, asked: Asked): Promise<JsonObject | undefined> {
    const { holder, instance, clock, status } = this.#options
    const { caller } = asked
    const { principal } = caller.post
    const { session, ...others } = given
    // Where it names none it is the tool's own.
    const input = tool.stateless ? given : others
    const request = await this.#requestOf(asked)
    const client = clientOf(asked)
    const act = async (call: Call): Promise<JsonObject> => {
      if (!tool.stateless) caller.held = true
      try {
        return resultOf(await tool.run(call, input))
      } catch (error) {
        if (isServerError(error) || error instanceof Unaskable) throw error
        return failure(messageOf(error))
      }
    }
    if (!tool.stateless) {
      const id = session as SessionId
      return holder.round(id, principal, { request, client, tool: act })
    }
    const stateOf: SessionHolder['stateOf'] = (id, owner) => holder.stateOf(id, owner)
    const options = { session: '', principal, instance, clock, status, stateOf, client }
    return runRound(undefined, request, (round) => act(createRoundCall(round, options)))
  }

  async #requestOf({ caller, envelope, answers, signal, say }: Asked): Promise<RoundRequest> {
    const { clock, meter = unmetered } = this.#options
    const identity = await identityOf(caller, answers, this.#options)
    return {
      clock,
      meter,
      identity,
      before: caller.before ?? firstRound(identity),
      keyOf: (step) => stepKey(caller, step),
      answers,
      signal,
      canAsk: (question) => canAsk(envelope, question),
      say: ({ method, params }) => say({ method, params }),
      ask: async (state) => {
        const requestState = await this.#states.sign(state, bindingOf(caller))
        const inputRequests = state.asked as unknown as InputRequests
        return inputRequired({ inputRequests, requestState }) as unknown as JsonObject
      },
    }
  }
}

function callerOf({ http }: ServerContext): Caller {
  return http?.authInfo?.extra?.['caller'] as Caller
}

function refuse(caller: Caller, answer: Unserved): void {
  if (answer.kind === 'refused') caller.refusal = answer
}

function askedBy(ctx: ServerContext): Asked {
  const { envelope, _meta, inputResponses: answers = {}, signal, notify } = ctx.mcpReq
  const { progressToken } = _meta ?? {}
  return { caller: callerOf(ctx), envelope, progressToken, answers, signal, say: notify }
}

/** What a request says of its client, if nobody has anything to say against it. */
export function envelopeOf({ params }: JSONRPCRequest): Record<string, unknown> | undefined {
  const meta = params?._meta ?? {}
  const info = meta[CLIENT_INFO_META_KEY]
  const level = meta[LOG_LEVEL_META_KEY]
  const isProper =
    isSpecType.ClientCapabilities(meta[CLIENT_CAPABILITIES_META_KEY]) &&
    (info === undefined || isSpecType.Implementation(info)) &&
    (level === undefined || isSpecType.LoggingLevel(level))
  return isProper ? meta : undefined
}

function clientOf({ envelope, progressToken }: Asked): RoundClient {
  return {
    // An earlier revision sets the level for a session, and there is none.
    logLevel: (envelope?.[LOG_LEVEL_META_KEY] ?? (envelope ? undefined : 'info')) as LoggingLevel,
    progressToken,
    canBeAsked: envelope !== undefined,
  }
}

function firstRound(identity: Identity | undefined): RoundState {
  let call: string | undefined
  return {
    // Most calls need none.
    get call() {
      return (call ??= identity?.key ?? randomText(9))
    },
    round: 0,
    did: [],
    asked: {},
  }
}

/** By what the client has said in the request; as the SDK sees it, which refuses the others. */
function canAsk(envelope: Record<string, unknown> | undefined, { method }: Question): boolean {
  const capabilities = envelope?.[CLIENT_CAPABILITIES_META_KEY] as ClientCapabilities | undefined
  if (method === 'sampling/createMessage') return capabilities?.sampling !== undefined
  const { elicitation } = capabilities ?? {}
  return elicitation !== undefined && (!elicitation.url || elicitation.form !== undefined)
}

/** What must not change between the rounds of a call. */
function bindingOf({ post, params }: Caller): string {
  return canonical([post.principal, params['name'], params['arguments'] ?? {}])
}

/** A call may be named by its client: what that means to others depends on whose it is, and where. */
function stepKey({ post, params }: Caller, step: string): Promise<string> {
  const { session = null } = (params['arguments'] ?? {}) as JsonObject
  return hashOf(canonical([post.principal, session, params['name'], step]))
}

/** The first round is told by its key, as any call; a later one by what it goes on with. */
async function identityOf(
  { post, params, before }: Caller,
  answers: object,
  { pack, ttlMs }: StatelessHostOptions,
): Promise<Identity | undefined> {
  const { session: _, ...input } = (params['arguments'] ?? {}) as JsonObject
  if (before === undefined) {
    const request = { method: 'tools/call', params: { ...params, arguments: input } }
    return identify({ jsonrpc: '2.0', id: 0, ...request }, post, pack.tools)
  }
  const { call, round } = before
  const fingerprint = await digestOf(canonical([params['name'], input, answers]))
  // For as long as its answers may come.
  return { key: `round/${call}/${round}`, fingerprint, keepMs: ttlMs }
}
