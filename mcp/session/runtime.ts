import type { JSONRPCNotification, JSONRPCRequest } from '@modelcontextprotocol/server'
import { knownError, ServerError, sessionNotFound } from '../errors.ts'
import type { Limits } from '../limits.ts'
import type { Log } from '../log.ts'
import { unmetered } from '../meter.ts'
import type { Status } from '../status.ts'
import {
  answerQuestion,
  cancelCall,
  findCalls,
  parseQuestionId,
  takeCall,
  type Taken,
} from './call-log.ts'
import type { Clock } from './clock.ts'
import { Exchange, type ExchangeHost } from './exchange.ts'
import { answerTo } from './exchange-answer.ts'
import { Exchanges } from './exchanges.ts'
import { identify, keyConflict } from './identity.ts'
import { createStreamId, type Principal, type StreamId } from './ids.ts'
import { LiveSession, type LiveSessionOptions } from './live-session.ts'
import { measureExchanges } from './measured.ts'
import { outcomeOf, parseMessage, type InitializeMessage } from './message.ts'
import { refusalOf } from './refusal.ts'
import type { Answer, Post, SessionRound, StateOf } from './router.ts'
import { createRoundCall } from './round-call.ts'
import { runRound } from './round.ts'
import { asSpoken } from './revisions.ts'
import { Runs } from './runs.ts'
import type { JsonObject, SessionState } from './state.ts'
import type { RpcOutcome, SessionRecord } from './store.ts'
import type { Pack } from './tool.ts'
import type { Response } from './transport.ts'

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
  /** A call that others could go on with runs here from now on. */
  readonly hold: (stream: StreamId) => void
  /** It does not run here any more. */
  readonly letGo: (stream: StreamId, ended: boolean) => void
}

interface RuntimeLimits extends Limits {
  /** A call that has not replied by then is answered with a stream. */
  readonly quickReplyMs: number
  /** How long a question to the client may stay open. */
  readonly askTimeoutMs: number
}

/** One live session in memory: JSON-RPC in, replies and events out. */
export class SessionRuntime {
  readonly #options: RuntimeOptions
  readonly #session: LiveSession
  readonly #exchanges: Exchanges
  readonly #runs: Runs
  readonly #rounds = new Set<Promise<unknown>>()
  readonly #host: ExchangeHost
  /** Requests that are about to run. */
  #arriving = 0

  constructor(options: RuntimeOptions) {
    const { id, pack, log, meter = unmetered } = options
    const measure = measureExchanges({ ...options, meter })
    const shownAt = (pack.resources ?? []).map((resource) => resource.uriOf(id))
    this.#options = options
    this.#exchanges = new Exchanges(options.clock, options.limits.quickReplyMs)
    this.#session = new LiveSession({ ...options, shownAt })
    this.#host = {
      session: this.#session,
      clock: options.clock,
      meter,
      askTimeoutMs: options.limits.askTimeoutMs,
      rerun: (exchange) => this.#rerun(exchange),
      stop: (exchange) => this.#runs.stop(exchange),
      hold: options.hold,
      letGo: options.letGo,
      settled: (exchange, answer) => {
        measure(exchange, answer)
        // What has failed before it had a stream is put on record where it is refused.
        if (answer.kind === 'failed' && exchange.stream) knownError(answer.error, log)
      },
      answer: (stream, op, outcome) => this.#answerQuestion(stream, op, outcome),
    }
    this.#runs = new Runs({
      ...options,
      session: this.#session,
      exchanges: this.#exchanges,
      callOptions: () => this.#callOptions(),
    })
  }

  get record(): SessionRecord {
    return this.#session.record
  }

  /** Begins the session, unless what it answers is an error. */
  async begin(
    request: InitializeMessage,
    { principal, source }: Pick<Post, 'principal' | 'source'>,
  ): Promise<RpcOutcome> {
    const initialize = asSpoken(request.params) as JsonObject
    const outcome = await this.#runs.begin(initialize)
    if ('error' in outcome) return outcome
    const standalone = createStreamId()
    await this.#session.begin({ principal, source, initialize, standalone })
    const { name, version } = request.params.clientInfo
    const { log, id } = this.#options
    const client = `${name} ${version}`
    const from = source === principal ? undefined : source
    log({ event: 'session_opened', session: id, client, principal, from })
    return outcome
  }

  async resume(): Promise<boolean> {
    const { clock, id, log } = this.#options
    const startedAt = clock.now()
    const record = (await this.#session.load())?.record
    if (record === undefined) return false
    const tookMs = clock.now() - startedAt
    log({ event: 'session_restored', session: id, version: record.version, tookMs })
    return true
  }

  /** Takes one POST. Never throws: what goes wrong is part of the answer. */
  async deliver(post: Post): Promise<Answer> {
    try {
      const incoming = parseMessage(post.body, this.#options.limits)
      if (incoming.kind === 'request') return await this.#request(incoming.message, post)
      if (incoming.kind === 'notification') await this.#notification(incoming.message)
      else await this.#response(incoming.message)
      return (await this.#session.load()) === undefined ? { kind: 'gone' } : { kind: 'accepted' }
    } catch (error) {
      return refusalOf(error, this.#options.log)
    }
  }

  /** Runs `tool` for one request of the stateless revision. */
  async round({ request, client, tool }: SessionRound): Promise<JsonObject> {
    this.#mustTakeMore()
    const running = runRound(this.#session, request, (round) => {
      return tool(createRoundCall(round, { ...this.#callOptions(), client }))
    })
    this.#rounds.add(running)
    return running.finally(() => this.#rounds.delete(running))
  }

  get isIdle(): boolean {
    return this.running === 0
  }

  /** How many calls run. */
  get running(): number {
    return this.#exchanges.size + this.#rounds.size
  }

  /** Resolves when no call runs. */
  async idle(): Promise<void> {
    await Promise.allSettled([...this.#rounds, ...Array.from(this.#exchanges, ({ done }) => done)])
  }

  /** Goes on with a call that nobody runs. */
  async takeOver(stream: StreamId): Promise<Taken['kind']> {
    if (this.#exchanges.withStream(stream) !== undefined) return 'elsewhere'
    const { store, id, instance, clock, log } = this.#options
    const startedAt = clock.now()
    const taken = await takeCall(store, { id, stream }, { by: instance, now: clock.now() })
    if (taken.kind !== 'taken') return taken.kind
    const { log: entries } = taken
    const [first] = entries
    if (first?.kind !== 'begin') return 'over'
    const exchange = new Exchange(first.request, undefined, this.#host, { stream, entries })
    log({ event: 'call_taken_over', session: id, stream, tookMs: clock.now() - startedAt })
    this.#begin(exchange)
    if (entries.some(({ kind }) => kind === 'cancel')) await exchange.cancel()
    // What came while it was taken over was news to nobody.
    else void exchange.hear()
    return 'taken'
  }

  /** Others have added to the log of a call, whose end is at `last` now; or may have to any. */
  heard(stream?: StreamId, last?: number): void {
    for (const exchange of this.#exchanges) {
      if (stream === undefined || exchange.stream === stream) void exchange.hear(last)
    }
  }

  /** Ends all calls; the session itself is the store's to end. */
  async close(): Promise<void> {
    this.#session.end()
    for (const exchange of this.#exchanges) exchange.abort(sessionNotFound())
    await this.#runs.close()
  }

  async #request(request: JSONRPCRequest, post: Post): Promise<Answer> {
    if (request.method === 'initialize') {
      throw new ServerError('invalid_request', 'Cannot initialize session: it has begun already')
    }
    this.#mustTakeMore()
    const identified = this.#identify(request, post)
    const identity = identified instanceof Promise ? await identified : identified
    const running = this.#exchanges.withKey(identity?.key)
    if (running !== undefined && running.identity?.fingerprint !== identity?.fingerprint) {
      return answerTo(request, { kind: 'failed', error: keyConflict() })
    }
    return answerTo(request, await (running ?? this.#start(request, identity)).answer)
  }

  #identify(request: JSONRPCRequest, post: Post): ReturnType<typeof identify> {
    const identity = identify(request, post, this.#options.pack.tools)
    if (!(identity instanceof Promise)) return identity
    // It has its place from here on: others may come while it waits.
    this.#arriving++
    return identity.finally(() => this.#arriving--)
  }

  #mustTakeMore(): void {
    if (this.running + this.#arriving < this.#options.limits.maxCallsPerSession) return
    throw new ServerError('too_many_calls', 'Cannot run call: the session runs too many')
  }

  #start(request: JSONRPCRequest, identity: Exchange['identity']): Exchange {
    const exchange = new Exchange(request, identity, this.#host)
    this.#begin(exchange)
    this.#exchanges.watch()
    return exchange
  }

  #begin(exchange: Exchange): void {
    void exchange.done.then(() => this.#exchanges.forget(exchange))
    this.#runs.run(exchange)
  }

  async #rerun(exchange: Exchange): Promise<void> {
    const { id, log } = this.#options
    log({ event: 'commit_conflict', session: id, expected: this.record.version })
    await this.#session.load()
    this.#runs.run(exchange)
  }

  async #notification(notification: JSONRPCNotification): Promise<void> {
    if (notification.method !== 'notifications/cancelled') {
      return this.#runs.tell(notification)
    }
    const requestId = notification.params?.['requestId']
    const here = [...this.#exchanges].filter(({ request }) => request.id === requestId)
    const { store, id } = this.#options
    const quick = here.filter(({ stream }) => stream === undefined)
    const streams = await findCalls(store, id, requestId)
    // Of two calls with one id nobody can say which is meant: cancelling is a wish, so let both be.
    if (quick.length + streams.length !== 1) return
    for (const exchange of quick) await exchange.cancel()
    for (const stream of streams) if (await cancelCall(store, { id, stream })) this.heard(stream)
  }

  async #response({ id, ...response }: Response): Promise<void> {
    const asked = parseQuestionId(id)
    if (asked === undefined) return
    const outcome = outcomeOf(response)
    await this.#answerQuestion(asked.stream, asked.op, outcome)
  }

  async #answerQuestion(stream: StreamId, op: number, outcome: RpcOutcome): Promise<void> {
    const { store, id } = this.#options
    await answerQuestion(store, { id, stream }, op, outcome)
    // Also if it was answered before: its holder may have missed that.
    this.heard(stream)
  }

  #callOptions() {
    const { id: session, instance, clock, status } = this.#options
    const stateOf: StateOf = (other, owner) => this.#stateOf(other, owner)
    const { principal } = this.record
    return { session, principal, instance, clock, status, stateOf }
  }

  async #stateOf(other: string, owner: Principal): Promise<SessionState | undefined> {
    const { id, stateOf, log } = this.#options
    const state = await stateOf(other, owner)
    if (state !== undefined && other !== id) log({ event: 'session_read', session: other, by: id })
    return state
  }
}
