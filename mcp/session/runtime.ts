import type {
  JSONRPCErrorResponse,
  JSONRPCMessage,
  JSONRPCNotification,
  JSONRPCRequest,
  JSONRPCResultResponse,
  ServerContext,
} from '@modelcontextprotocol/server'
import { httpStatusOf, rpcErrorOf, ServerError, sessionNotFound } from '../errors.ts'
import type { Log } from '../log.ts'
import type { Status } from '../status.ts'
import { createCall, type Call } from './call.ts'
import type { Clock } from './clock.ts'
import { Exchange, interrupted, keyConflict, respond, type ExchangeAnswer } from './exchange.ts'
import { identify } from './identity.ts'
import { createStreamId, type Principal, type StreamId } from './ids.ts'
import { LiveSession, type LiveSessionOptions } from './live-session.ts'
import { parseInitialize, parseMessage, type InitializeMessage } from './message.ts'
import { refusalOf } from './refusal.ts'
import type { Answer, Post, StateOf, Unserved } from './router.ts'
import { createServer, refuseUnsafeKeys } from './server.ts'
import { settingsChange } from './settings.ts'
import type { JsonObject } from './state.ts'
import type { RpcOutcome, SessionRecord } from './store.ts'
import type { Pack } from './tool.ts'
import { SessionTransport } from './transport.ts'

export interface RuntimeOptions extends Omit<LiveSessionOptions, 'shownAt'> {
  readonly pack: Pack
  readonly instance: string
  readonly clock: Clock
  readonly log: Log
  readonly status: Status
  readonly stateOf: StateOf
  readonly limits: RuntimeLimits
  /** Lets go of who follows `stream`; they come back for the rest. */
  readonly detach: (stream: StreamId) => void
}

interface RuntimeLimits {
  /** A call that has not replied by then is answered with a stream. */
  readonly quickReplyMs: number
  /** Requests of one session that may run at once. */
  readonly maxCalls: number
  /** How long a question to the client may stay open. */
  readonly askTimeoutMs: number
}

type Response = JSONRPCResultResponse | JSONRPCErrorResponse

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

/** Builds the runtime of a session that was begun before; `undefined` if there is none. */
export async function restoreRuntime(options: RuntimeOptions): Promise<SessionRuntime | undefined> {
  const runtime = new SessionRuntime(options)
  return (await runtime.resume()) ? runtime : undefined
}

/** One live session in memory: JSON-RPC in, replies and events out. */
export class SessionRuntime {
  readonly #options: RuntimeOptions
  readonly #session: LiveSession
  readonly #transport: SessionTransport
  readonly #exchanges = new Map<number, Exchange>()
  readonly #byKey = new Map<string, Exchange>()
  /** Takes the answers to requests of our own, which no client hears of. */
  #answered: ((response: Response) => void) | undefined
  #watching = false

  constructor(options: RuntimeOptions) {
    const { id, pack, log } = options
    const shownAt = (pack.resources ?? []).map((resource) => resource.uriOf(id))
    this.#options = options
    this.#session = new LiveSession({ ...options, shownAt })
    this.#transport = new SessionTransport(id, {
      replied: (run, response) => this.#replied(run, response),
      said: (message, run) => this.#said(message, run),
      failed: ({ message }) => log({ event: 'sdk_error', session: id, message }),
    })
  }

  get record(): SessionRecord {
    return this.#session.record
  }

  async begin(request: InitializeMessage, principal: Principal): Promise<RpcOutcome> {
    await this.#connect()
    const outcome = await this.#ask(request)
    const initialize = request.params as JsonObject
    await this.#session.begin({ principal, initialize, standalone: createStreamId() })
    const { name, version } = request.params.clientInfo
    const { log, id } = this.#options
    log({ event: 'session_opened', session: id, client: `${name} ${version}` })
    return outcome
  }

  async resume(): Promise<boolean> {
    const { clock, id, log } = this.#options
    const startedAt = clock.now()
    const record = (await this.#session.load())?.record
    if (record === undefined) return false
    await this.#connect()
    await this.#ask({ jsonrpc: '2.0', id: 0, method: 'initialize', params: record.initialize })
    const level = record.settings.logLevel
    if (level !== undefined) {
      await this.#ask({ jsonrpc: '2.0', id: 0, method: 'logging/setLevel', params: { level } })
    }
    const tookMs = clock.now() - startedAt
    log({ event: 'session_restored', session: id, version: record.version, tookMs })
    return true
  }

  /** Takes one POST. Never throws: what goes wrong is part of the answer. */
  async deliver(post: Post): Promise<Answer> {
    try {
      const incoming = parseMessage(post.body)
      if (incoming.kind === 'request') return await this.#request(incoming.message, post)
      if (incoming.kind === 'notification') await this.#notification(incoming.message)
      else this.#transport.receiveResponse(incoming.message)
      return (await this.#session.load()) === undefined ? { kind: 'gone' } : { kind: 'accepted' }
    } catch (error) {
      return refusalOf(error, this.#options.log)
    }
  }

  get isIdle(): boolean {
    return this.#exchanges.size === 0
  }

  /** Resolves when no call runs. */
  async idle(): Promise<void> {
    await Promise.all(this.#open().map(({ done }) => done))
  }

  /** Gives a call's stream its end if the process that ran the call is no more. */
  async closeOrphan(stream: StreamId): Promise<void> {
    if (stream === this.record.standalone) return
    if (this.#open().some((exchange) => exchange.stream === stream)) return
    const { store, id, log, grown } = this.#options
    const stored = await store.entries(id, stream, 0)
    const first = stored?.entries[0]
    if (stored === undefined || first?.kind !== 'begin') return
    if (stored.entries.at(-1)?.kind === 'end') return
    log({ event: 'call_interrupted', session: id, stream })
    const message = respond(first.request.id, { error: rpcErrorOf(interrupted()) })
    const at = stored.at + stored.entries.length
    await store.commit(id, { append: [{ stream, at, entries: [{ kind: 'end', message }] }] })
    grown(stream)
  }

  /** Ends all calls; the session itself is the store's to end. */
  async close(): Promise<void> {
    await Promise.all(this.#open().map((exchange) => exchange.abort(sessionNotFound())))
    await this.#transport.close()
  }

  async #request(request: JSONRPCRequest, post: Post): Promise<Answer> {
    if (request.method === 'initialize') {
      throw new ServerError('invalid_request', 'Cannot initialize session: it has begun already')
    }
    if (this.#exchanges.size >= this.#options.limits.maxCalls) {
      throw new ServerError('too_many_calls', 'Cannot run call: the session runs too many')
    }
    const { attempt } = post
    if (attempt) this.#session.settle({ sender: attempt.sender, below: attempt.settled })
    const identity = await identify(request, post, this.#options.pack.tools)
    const running = identity && this.#byKey.get(identity.key)
    if (running !== undefined && running.identity?.fingerprint !== identity?.fingerprint) {
      return this.#answer(request, { kind: 'failed', error: keyConflict() })
    }
    return this.#answer(request, await (running ?? this.#start(request, identity)).answer)
  }

  #start(request: JSONRPCRequest, identity: Exchange['identity']): Exchange {
    const session = this.#session
    const rerun = (one: Exchange): Promise<void> => this.#rerun(one)
    const exchange = new Exchange(request, identity, { session, rerun })
    if (identity !== undefined) this.#byKey.set(identity.key, exchange)
    void exchange.done.then(() => this.#forget(exchange))
    this.#run(exchange)
    this.#watch()
    return exchange
  }

  #run(exchange: Exchange): void {
    this.#transport.receiveRequest(exchange.request, (run) => {
      exchange.restart(run)
      this.#exchanges.set(run, exchange)
      const { detach } = this.#options
      const closeSSEStream = (): void => void exchange.openStream().then(detach, () => undefined)
      return { closeSSEStream }
    })
  }

  async #rerun(exchange: Exchange): Promise<void> {
    const { id, log } = this.#options
    this.#exchanges.delete(exchange.run)
    log({ event: 'commit_conflict', session: id, expected: this.record.version })
    await this.#session.load()
    this.#run(exchange)
  }

  /** Gives calls that take their time a stream. One timer for all: most calls need none. */
  #watch(): void {
    if (this.#watching) return
    this.#watching = true
    const before = new Set(this.#open())
    this.#options.clock.timer(this.#options.limits.quickReplyMs, () => {
      this.#watching = false
      const open = this.#open()
      for (const exchange of open.filter((one) => before.has(one))) {
        exchange.openStream().catch(() => undefined)
      }
      if (open.some((one) => one.stream === undefined)) this.#watch()
    })
  }

  #answer(request: JSONRPCRequest, answer: ExchangeAnswer): Answer {
    if (answer.kind === 'stream') {
      const { after, id } = answer
      return { kind: 'stream', after, ...(id !== request.id && { replyAs: request.id }) }
    }
    if (answer.kind === 'reply') {
      return { kind: 'reply', body: JSON.stringify(respond(request.id, answer.outcome)) }
    }
    const { error } = answer
    if (httpStatusOf(error.code) !== 200) return refusalOf(error, this.#options.log)
    return this.#answer(request, { kind: 'reply', outcome: { error: rpcErrorOf(error) } })
  }

  async #replied(run: number, response: Response): Promise<void> {
    if (this.#answered !== undefined) return this.#answered(response)
    const exchange = this.#exchanges.get(run)
    if (exchange === undefined) return
    const outcome = outcomeOf(response)
    await exchange.finish(outcome, settingsChange(exchange.request, outcome))
  }

  async #said(message: JSONRPCMessage, run: number | undefined): Promise<void> {
    if (this.#answered !== undefined) return
    await (run === undefined ? this.#session.say(message) : this.#exchanges.get(run)?.say(message))
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
    await exchange.abort({ error: CANCELLED })
  }

  async #connect(): Promise<void> {
    const { pack, instance } = this.#options
    const server = createServer(pack, { instance, callOf: (ctx) => this.#callOf(ctx) })
    await server.connect(this.#transport)
  }

  #callOf(ctx: ServerContext): Call {
    const exchange = this.#exchanges.get(Number(ctx.mcpReq.id))
    if (exchange === undefined) throw new Error('Cannot run call: it is over')
    refuseUnsafeKeys(exchange.request.params?.['arguments'])
    const { id: session, instance, clock, status, stateOf, limits } = this.#options
    const { principal } = this.record
    const { askTimeoutMs } = limits
    const options = { session, principal, instance, clock, status, stateOf, askTimeoutMs }
    return createCall(exchange, ctx, options)
  }

  #ask(request: JSONRPCRequest): Promise<RpcOutcome> {
    const { promise, resolve } = Promise.withResolvers<RpcOutcome>()
    this.#answered = (response) => {
      this.#answered = undefined
      resolve(outcomeOf(response))
    }
    this.#transport.receiveRequest(request)
    return promise
  }

  #open(): Exchange[] {
    return [...this.#exchanges.values()]
  }

  #forget({ run, identity }: Exchange): void {
    this.#exchanges.delete(run)
    if (identity !== undefined) this.#byKey.delete(identity.key)
  }
}

const CANCELLED = { code: -32800, message: 'Cannot finish call: the client has cancelled it' }

function outcomeOf(response: Response): RpcOutcome {
  if ('result' in response) return { result: response.result as JsonObject }
  const { code, message, data } = response.error
  return { error: { code, message, ...(data !== undefined && { data: data as JsonObject }) } }
}
