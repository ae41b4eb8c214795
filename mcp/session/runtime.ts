import type {
  JSONRPCErrorResponse,
  JSONRPCMessage,
  JSONRPCNotification,
  JSONRPCRequest,
  JSONRPCResultResponse,
  ServerContext,
} from '@modelcontextprotocol/server'
import { httpStatusOf, rpcErrorOf, ServerError } from '../errors.ts'
import type { Log } from '../log.ts'
import type { Status } from '../status.ts'
import { createCall, type Call } from './call.ts'
import type { Clock } from './clock.ts'
import {
  Exchange,
  interrupted,
  keyConflict,
  respond,
  type ExchangeAnswer,
  type ExchangeHost,
} from './exchange.ts'
import { identify } from './identity.ts'
import { createStreamId, type Principal, type SessionId, type StreamId } from './ids.ts'
import { parseInitialize, parseMessage, type InitializeMessage } from './message.ts'
import { refusalOf } from './refusal.ts'
import type { Answer, Post, StateOf, Unserved } from './router.ts'
import { createServer } from './server.ts'
import type { JsonObject } from './state.ts'
import type { Commit, CommitOutcome, RpcOutcome, SessionRecord, SessionStore, Settings } from './store.ts'
import type { Pack } from './tool.ts'
import { SessionTransport } from './transport.ts'

export interface RuntimeOptions {
  readonly id: SessionId
  readonly pack: Pack
  readonly store: SessionStore
  readonly instance: string
  readonly clock: Clock
  readonly log: Log
  readonly status: Status
  readonly stateOf: StateOf
  readonly limits: RuntimeLimits
  /** Called after each commit that appended to `stream`: who follows it may look. */
  readonly grown: (stream: StreamId) => void
  /** Lets go of who follows `stream`; they come back for the rest. */
  readonly detach: (stream: StreamId) => void
}

export interface RuntimeLimits {
  /** A call that has not replied by then is answered with a stream. */
  readonly quickReplyMs: number
  /** Requests of one session that may run at once. */
  readonly maxCalls: number
  /** How long a question to the client may stay open. */
  readonly askTimeoutMs: number
}

/** Starts a session: `post` must be its `initialize` request. */
export async function openSession(
  post: Post,
  options: RuntimeOptions,
): Promise<{ kind: 'opened'; runtime: SessionRuntime; body: string } | Unserved> {
  try {
    const request = parseInitialize(post.body)
    const runtime = new SessionRuntime(options)
    const outcome = await runtime.begin(request, post.principal)
    return { kind: 'opened', runtime, body: JSON.stringify(respond(request.id, outcome)) }
  } catch (error) {
    return refusalOf(error, options.log)
  }
}

/** Builds a session's runtime from its record, wherever and whenever it was last held. */
export async function restoreRuntime(
  record: SessionRecord,
  options: RuntimeOptions,
): Promise<SessionRuntime> {
  const runtime = new SessionRuntime(options)
  await runtime.resume(record)
  return runtime
}

/** One live session in memory: JSON-RPC in, replies and events out. */
export class SessionRuntime implements ExchangeHost {
  readonly #options: RuntimeOptions
  readonly #transport: SessionTransport
  readonly #exchanges = new Map<number, Exchange>()
  readonly #byKey = new Map<string, Exchange>()
  #record: SessionRecord | undefined
  #settled: Commit['settled']
  #turn: Promise<void> = Promise.resolve()
  /** Where the standalone stream ends; found out when it is first written to. */
  #standaloneEnd: number | undefined
  #watching = false
  #muted: ((response: JSONRPCResultResponse | JSONRPCErrorResponse) => void) | undefined

  constructor(options: RuntimeOptions) {
    this.#options = options
    this.#transport = new SessionTransport(options.id, {
      replied: (run, response) => this.#replied(run, response),
      said: (message, run) => this.#said(message, run),
      failed: ({ message }) => options.log({ event: 'sdk_error', session: options.id, message }),
    })
  }

  get record(): SessionRecord {
    if (this.#record === undefined) throw new Error('Cannot use session before it has begun')
    return this.#record
  }

  async begin(request: InitializeMessage, principal: Principal): Promise<RpcOutcome> {
    await this.#connect()
    const outcome = await this.#ask(request)
    if ('error' in outcome) return outcome
    const begin = {
      principal,
      initialize: request.params as JsonObject,
      standalone: createStreamId(),
    }
    await this.#options.store.commit(this.#options.id, { begin })
    await this.load()
    const { clientInfo } = request.params
    const client = `${clientInfo.name} ${clientInfo.version}`
    this.#options.log({ event: 'session_opened', session: this.#options.id, client })
    return outcome
  }

  async resume(record: SessionRecord): Promise<void> {
    const { clock, id, log } = this.#options
    const startedAt = clock.now()
    this.#record = record
    await this.#connect()
    await this.#ask({ jsonrpc: '2.0', id: 0, method: 'initialize', params: record.initialize })
    const level = record.settings.logLevel
    if (level !== undefined) {
      await this.#ask({ jsonrpc: '2.0', id: 0, method: 'logging/setLevel', params: { level } })
    }
    const tookMs = clock.now() - startedAt
    log({ event: 'session_restored', session: id, version: record.version, tookMs })
  }

  /** Takes one POST. Never throws: what goes wrong is part of the answer. */
  async deliver(post: Post): Promise<Answer> {
    try {
      const incoming = parseMessage(post.body)
      switch (incoming.kind) {
        case 'request':
          return await this.#request(incoming.message, post)
        case 'notification':
          await this.#notification(incoming.message)
          return await this.#accepted()
        case 'response':
          this.#transport.receiveResponse(incoming.message)
          return await this.#accepted()
      }
    } catch (error) {
      return refusalOf(error, this.#options.log)
    }
  }

  /** Resolves when no call runs. */
  async idle(): Promise<void> {
    await Promise.all(this.#open().map(({ done }) => done))
  }

  /** True while this holder runs the call that `stream` belongs to. */
  runs(stream: StreamId): boolean {
    return this.#open().some((exchange) => exchange.stream === stream)
  }

  /** Gives a stream its end if the process that wrote it is no more. */
  async closeOrphan(stream: StreamId): Promise<void> {
    const { store, id, log, grown } = this.#options
    if (stream === this.record.standalone || this.runs(stream)) return
    const stored = await store.entries(id, stream, 0)
    const [begin] = stored?.entries ?? []
    if (stored === undefined || begin?.kind !== 'begin' || stored.entries.at(-1)?.kind === 'end') return
    log({ event: 'call_interrupted', session: id, stream })
    const message = respond(begin.request.id, { error: rpcErrorOf(interrupted()) })
    const at = stored.at + stored.entries.length
    await store.commit(id, { append: [{ stream, at, entries: [{ kind: 'end', message }] }] })
    grown(stream)
  }

  /** Ends all calls; the session itself is the store's to end. */
  async close(): Promise<void> {
    const gone = new ServerError('session_not_found', 'Session not found')
    await Promise.all(this.#open().map((exchange) => exchange.abort(gone)))
    await this.#transport.close()
  }

  async load(): Promise<SessionRecord | undefined> {
    const record = await this.#options.store.load(this.#options.id)
    if (record !== undefined) this.#record = record
    return record
  }

  async commit(commit: Commit): Promise<CommitOutcome> {
    const { store, id, grown } = this.#options
    const append = [...(commit.append ?? []), ...(await this.#updated(commit))]
    const settled = this.#settled
    const whole = { ...commit, ...(settled && { settled }), ...(append.length > 0 && { append }) }
    const outcome = await store.commit(id, whole)
    if (outcome.kind !== 'committed') {
      this.#standaloneEnd = undefined
      return outcome
    }
    const { version } = outcome
    const state = commit.change?.state ?? this.record.state
    this.#record = { ...this.record, version, state, settings: commit.settings ?? this.record.settings }
    for (const { stream } of append) grown(stream)
    return outcome
  }

  async turn(): Promise<() => void> {
    const before = this.#turn
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#turn = before.then(() => promise)
    await before
    return resolve
  }

  async rerun(exchange: Exchange): Promise<void> {
    const { id, log } = this.#options
    this.#exchanges.delete(exchange.run)
    log({ event: 'commit_conflict', session: id, expected: this.record.version, attempt: exchange.run })
    await this.load()
    this.#run(exchange)
  }

  async #request(request: JSONRPCRequest, post: Post): Promise<Answer> {
    if (request.method === 'initialize') {
      throw new ServerError('invalid_request', 'Cannot initialize session: it has begun already')
    }
    if (this.#exchanges.size >= this.#options.limits.maxCalls) {
      throw new ServerError('too_many_calls', 'Cannot run call: the session runs too many')
    }
    const identity = await identify(request, post)
    if (post.attempt) this.#settled = { sender: post.attempt.sender, below: post.attempt.settled }
    const running = identity && this.#byKey.get(identity.key)
    if (running !== undefined && running.identity?.fingerprint !== identity?.fingerprint) {
      return this.#answer(request, { kind: 'failed', error: keyConflict() })
    }
    return this.#answer(request, await (running ?? this.#start(request, identity)).answer)
  }

  #start(request: JSONRPCRequest, identity: Exchange['identity']): Exchange {
    const exchange = new Exchange(request, identity, this)
    if (identity !== undefined) this.#byKey.set(identity.key, exchange)
    this.#run(exchange)
    this.#watch()
    return exchange
  }

  /** Gives calls that take their time a stream. One timer for all: most calls need none. */
  #watch(): void {
    if (this.#watching) return
    this.#watching = true
    const waiting = this.#open()
    this.#options.clock.timer(this.#options.limits.quickReplyMs, () => {
      this.#watching = false
      const open = this.#open()
      for (const exchange of open.filter((one) => waiting.includes(one))) {
        exchange.openStream().catch(() => undefined)
      }
      if (open.some((one) => one.stream === undefined)) this.#watch()
    })
  }

  #run(exchange: Exchange): void {
    this.#transport.receiveRequest(exchange.request, (run) => {
      exchange.restart(run)
      this.#exchanges.set(run, exchange)
      const closeSSEStream = () => void exchange.openStream().then(this.#options.detach, () => undefined)
      return { closeSSEStream }
    })
  }

  #answer(request: JSONRPCRequest, answer: ExchangeAnswer): Answer {
    switch (answer.kind) {
      case 'reply':
        return { kind: 'reply', body: JSON.stringify(respond(request.id, answer.outcome)) }
      case 'stream':
        return answer
      case 'failed':
        if (httpStatusOf(answer.error.code) !== 200) return refusalOf(answer.error, this.#options.log)
        return this.#answer(request, { kind: 'reply', outcome: { error: rpcErrorOf(answer.error) } })
    }
  }

  async #replied(run: number, response: JSONRPCResultResponse | JSONRPCErrorResponse): Promise<void> {
    if (this.#muted !== undefined) return this.#muted(response)
    const exchange = this.#exchanges.get(run)
    if (exchange === undefined) return
    this.#exchanges.delete(run)
    const outcome = outcomeOf(response)
    await exchange.finish(outcome, settingsAfter(exchange.request, outcome, this.record.settings))
    if (!this.#exchanges.has(exchange.run)) this.#forget(exchange)
  }

  async #said(message: JSONRPCMessage, run: number | undefined): Promise<void> {
    if (this.#muted !== undefined) return
    if (run !== undefined) return this.#exchanges.get(run)?.say(message)
    const { standalone: stream } = this.record
    const entries = [{ kind: 'message', message } as const]
    for (let outcome: CommitOutcome['kind'] = 'conflict'; outcome === 'conflict'; ) {
      const at = await this.#findStandaloneEnd()
      this.#standaloneEnd = at + 1
      outcome = (await this.commit({ append: [{ stream, at, entries }] })).kind
    }
  }

  async #notification(notification: JSONRPCNotification): Promise<void> {
    if (notification.method !== 'notifications/cancelled') {
      return this.#transport.receiveNotification(notification)
    }
    const requestId = notification.params?.['requestId']
    const meant = this.#open().filter(({ request }) => request.id === requestId)
    const [exchange] = meant
    // Of two calls with one id nobody can say which is meant: cancelling is a wish, so let both be.
    if (exchange === undefined || meant.length > 1) return
    const params = { ...notification.params, requestId: exchange.run }
    this.#transport.receiveNotification({ ...notification, params })
    this.#exchanges.delete(exchange.run)
    await exchange.abort({ error: CANCELLED })
    this.#forget(exchange)
  }

  async #accepted(): Promise<Answer> {
    return (await this.load()) === undefined ? { kind: 'gone' } : { kind: 'accepted' }
  }

  /** The notifications that a commit owes to subscribers of what shows this session's state. */
  async #updated({ change }: Commit): Promise<NonNullable<Commit['append']>> {
    if (change === undefined || this.record.settings.subscriptions.length === 0) return []
    const { id, pack } = this.#options
    const uris = (pack.resources ?? []).map((resource) => resource.uriOf(id))
    const entries = uris
      .filter((uri) => this.record.settings.subscriptions.includes(uri))
      .map((uri) => ({ kind: 'message', message: resourceUpdated(uri) }) as const)
    if (entries.length === 0) return []
    const at = await this.#findStandaloneEnd()
    this.#standaloneEnd = at + entries.length
    return [{ stream: this.record.standalone, at, entries }]
  }

  async #findStandaloneEnd(): Promise<number> {
    if (this.#standaloneEnd !== undefined) return this.#standaloneEnd
    const stored = await this.#options.store.entries(this.#options.id, this.record.standalone, 0)
    return stored === undefined ? 1 : stored.at + stored.entries.length
  }

  async #connect(): Promise<void> {
    const { pack, instance } = this.#options
    const server = createServer(pack, { instance, callOf: (ctx) => this.#callOf(ctx) })
    server.server.onerror = ({ message }) =>
      this.#options.log({ event: 'sdk_error', session: this.#options.id, message })
    await server.connect(this.#transport)
  }

  #callOf(ctx: ServerContext): Call {
    const exchange = this.#exchanges.get(Number(ctx.mcpReq.id))
    if (exchange === undefined) throw new Error('Cannot run call: it is over')
    const { id: session, instance, clock, status, stateOf, limits } = this.#options
    const { principal } = this.record
    const { askTimeoutMs } = limits
    const options = { session, principal, instance, clock, status, stateOf, askTimeoutMs }
    return createCall(exchange, ctx, options)
  }

  /** Has the SDK answer a request of our own, which no client hears of. */
  #ask(request: JSONRPCRequest): Promise<RpcOutcome> {
    const { promise, resolve } = Promise.withResolvers<RpcOutcome>()
    this.#muted = (response) => {
      this.#muted = undefined
      resolve(outcomeOf(response))
    }
    this.#transport.receiveRequest(request)
    return promise
  }

  #open(): Exchange[] {
    return [...this.#exchanges.values()]
  }

  #forget({ identity }: Exchange): void {
    if (identity !== undefined) this.#byKey.delete(identity.key)
  }
}

const CANCELLED = { code: -32800, message: 'Cannot finish call: the client has cancelled it' }

function outcomeOf(response: JSONRPCResultResponse | JSONRPCErrorResponse): RpcOutcome {
  if ('result' in response) return { result: response.result as JsonObject }
  return { error: response.error as unknown as JsonObject }
}

/** The session's settings after `request` went well; `undefined` if it changed none. */
function settingsAfter(
  { method, params }: JSONRPCRequest,
  outcome: RpcOutcome,
  settings: Settings,
): Settings | undefined {
  if ('error' in outcome) return undefined
  const others = settings.subscriptions.filter((uri) => uri !== params?.['uri'])
  switch (method) {
    case 'logging/setLevel':
      return { ...settings, logLevel: String(params?.['level']) }
    case 'resources/subscribe':
      return { ...settings, subscriptions: [...others, String(params?.['uri'])] }
    case 'resources/unsubscribe':
      return { ...settings, subscriptions: others }
    default:
      return undefined
  }
}

function resourceUpdated(uri: string): JSONRPCMessage {
  return { jsonrpc: '2.0', method: 'notifications/resources/updated', params: { uri } }
}
