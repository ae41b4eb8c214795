import type { JSONRPCRequest } from '@modelcontextprotocol/server'
import { isAway, isServerError, rpcErrorOf, ServerError, sessionNotFound } from '../errors.ts'
import { REPLAYED, type Meter } from '../meter.ts'
import { AWAY_MS, type Clock } from './clock.ts'
import { answerFrom, streamAnswer, type ExchangeAnswer } from './exchange-answer.ts'
import { createStreamId, type StreamId } from './ids.ts'
import type { Identity } from './identity.ts'
import { Abandoned, Journal } from './journal.ts'
import type { LiveSession } from './live-session.ts'
import { respond } from './message.ts'
import { Operations } from './operations.ts'
import { OwnLog } from './own-log.ts'
import type { SettingsChange } from './settings.ts'
import { StagedChange } from './staged-change.ts'
import type { Commit, Entry, Loaded, RecordedAnswer, Reply, RpcOutcome } from './store.ts'

/** What an exchange needs of the runtime it is part of. */
export interface ExchangeHost {
  readonly session: LiveSession
  readonly clock: Clock
  readonly meter: Meter
  /** How long a question to the client may stay open. */
  readonly askTimeoutMs: number
  /** Runs `exchange` from its start, on a newly loaded record. */
  rerun(exchange: Exchange): Promise<void>
  /** Has the tool told that nobody waits for it any more. */
  stop(exchange: Exchange): void
  /** The call is about to have a log under this name: it runs here. */
  hold(stream: StreamId): void
  /** It does not run here any more. */
  letGo(stream: StreamId, ended: boolean): void
  /** The exchange is over, and has come to `answer`. */
  settled(exchange: Exchange, answer: ExchangeAnswer): void
  /** Answers a question that nobody has answered. */
  answer(stream: StreamId, op: number, outcome: RpcOutcome): Promise<void>
}

const NEEDS_NO_STATE = /^ping$|\/list$/

type Changes = Pick<Commit, 'change' | 'settings'>

/** The log of a call that was begun before. */
export interface Begun {
  readonly stream: StreamId
  readonly entries: readonly Entry[]
}

/**
 * One client request from its delivery to its answer. As long as it says nothing before its
 * reply, all it does is one commit, made when the reply is known: new state and reply record.
 * The first thing it says opens its stream; from then on each thing is committed as it comes, and
 * with it what the call did meanwhile, so that another process can go on from there.
 */
export class Exchange {
  readonly request: JSONRPCRequest
  readonly identity: Identity | undefined
  readonly answer: Promise<ExchangeAnswer>
  readonly host: ExchangeHost
  /** Milliseconds since the epoch. */
  readonly startedAt: number
  readonly journal = new Journal()
  readonly staged = new StagedChange()
  readonly #resolve: (answer: ExchangeAnswer) => void
  readonly #done = Promise.withResolvers<void>()
  #operations: Operations | undefined
  #log: OwnLog | undefined
  #over = false
  #cancelled = false
  #queue: Promise<unknown> = Promise.resolve()

  constructor(
    request: JSONRPCRequest,
    identity: Identity | undefined,
    host: ExchangeHost,
    begun?: Begun,
  ) {
    this.request = request
    this.identity = identity
    this.host = host
    this.startedAt = host.clock.now()
    const { promise, resolve } = Promise.withResolvers<ExchangeAnswer>()
    this.answer = promise
    this.#resolve = resolve
    if (begun !== undefined) this.#goOn(begun)
  }

  /** Resolves when what was said before has been written, or has failed. */
  get written(): Promise<unknown> {
    return this.#queue
  }

  /** Resolves when the call is over, its stream included. */
  get done(): Promise<void> {
    return this.#done.promise
  }

  get stream(): StreamId | undefined {
    return this.#log?.stream
  }

  /** Those of its present run; what an earlier run still does is ignored. */
  get operations(): Operations {
    return (this.#operations ??= new Operations(this, 0))
  }

  get run(): number {
    return this.#operations?.run ?? 0
  }

  restart(run: number): void {
    this.#operations = new Operations(this, run)
    this.journal.restart()
  }

  /** Gives the call a stream before there is anything to say, and writes what was only noted. */
  async openStream(run = this.run): Promise<StreamId> {
    await this.inOrder(() => this.write([]), run)
    if (this.#log === undefined) throw new Abandoned()
    return this.#log.stream
  }

  /** Looks for what others have added to the call's log, if its end is at `last` or behind. */
  async hear(last = Number.POSITIVE_INFINITY): Promise<void> {
    const look = async (): Promise<void> => {
      if (this.#log?.isBehind(last)) await this.#catchUp(this.#log)
    }
    const again = (error: unknown): void => {
      // A call that waits for an answer makes no commit with which it would find it.
      if (isAway(error)) this.host.clock.timer(AWAY_MS, () => void this.hear(last))
      else throw error
    }
    await this.inOrder(() => look().catch(again)).catch(() => undefined)
  }

  /** Answers the request. What `change` makes of the session's settings is committed with it. */
  async finish(outcome: RpcOutcome, change?: SettingsChange): Promise<void> {
    await this.inOrder(() => {
      this.journal.end()
      return this.#finish(outcome, change)
    }).catch(() => undefined)
  }

  /** Ends the call for its client, and lets go of what was not committed. */
  async cancel(): Promise<void> {
    this.#cancelled = true
    this.staged.drop()
    this.host.stop(this)
    const end = (): Promise<void> => this.#finish({ error: CANCELLED })
    await this.inOrder(end, this.run, true).catch(() => undefined)
  }

  /** Ends the call with what went wrong in a run, unless it has ended already. */
  failRun(run: number, error: unknown): void {
    void this.inOrder(() => Promise.reject(error), run).catch(() => undefined)
  }

  /** Ends the call with the session it belongs to. */
  abort(error: ServerError): void {
    this.fail(error)
    this.host.stop(this)
  }

  #goOn({ stream, entries }: Begun): void {
    this.#log = this.#createLog(stream, entries)
    for (const entry of entries) this.journal.hear(entry)
    this.host.hold(stream)
    this.#resolve(streamAnswer(stream, this.request.id))
  }

  async #finish(outcome: RpcOutcome, change?: SettingsChange): Promise<void> {
    if (this.#log !== undefined) {
      await this.#writeEnd(outcome, change)
    } else if (this.staged.state !== undefined) {
      const reply = this.#replyRecord({ kind: 'reply', outcome })
      await this.#commit({ ...this.staged.take(), ...reply })
    } else if (change !== undefined) {
      await this.#inTurn(() => this.#commit(this.#settingsBy(change)))
    } else {
      const loaded = await this.#use()
      if (loaded === undefined) throw sessionNotFound()
      // It changed something when it ran first.
      if (loaded.reply !== undefined) return this.#replay(loaded.reply)
    }
    this.#settle({ kind: 'reply', outcome }, true)
  }

  /** Throws if it is too much for the session to remember. */
  #settingsBy(change: SettingsChange): Changes {
    const { version: from, state, settings } = this.host.session.record
    // With the state's version, so that no other holder goes on with the settings as they were.
    return { change: { from, state }, settings: change(settings) }
  }

  async #inTurn(act: () => Promise<void>): Promise<void> {
    const release = await this.host.session.turn()
    try {
      await act()
    } finally {
      release()
    }
  }

  /** While the store is away, what needs no state is answered from what was last known. */
  #use(): Promise<Loaded | undefined> {
    const { session } = this.host
    return session.load(this.identity).catch((error: unknown) => {
      if (NEEDS_NO_STATE.test(this.request.method)) return { record: session.record }
      throw error
    })
  }

  async #writeEnd(outcome: RpcOutcome, change?: SettingsChange): Promise<void> {
    if (this.#log === undefined) return
    const end = [{ kind: 'end', message: respond(this.request.id, outcome) } as const]
    if (change === undefined) return this.#appendAll(end)
    await this.#inTurn(async () => {
      while (!(await this.append(end, this.#settingsBy(change)))) {
        if (this.#over) throw new Abandoned()
        await this.host.session.load()
      }
    })
  }

  async write(entries: readonly Entry[]): Promise<void> {
    if (this.#log === undefined) await this.#open(entries)
    else if (entries.length > 0 || this.journal.hasNotes) await this.#appendAll(entries)
  }

  async #open(entries: readonly Entry[]): Promise<void> {
    const stream = createStreamId()
    const { id } = this.request
    const batch = this.journal.batch(entries)
    const all = [{ kind: 'begin', request: this.request } as const, ...batch.entries]
    const reply = this.#replyRecord({ kind: 'stream', stream, id })
    this.host.hold(stream)
    try {
      const append = [{ stream, at: 1, entries: all }]
      await this.#commit({ ...this.staged.take(), ...reply, append })
    } catch (error) {
      this.host.letGo(stream, !isAway(error))
      throw error
    }
    this.journal.written(batch)
    this.#log = this.#createLog(stream, all)
    this.#resolve(streamAnswer(stream, id))
  }

  #createLog(stream: StreamId, entries: readonly Entry[]): OwnLog {
    return new OwnLog(this.host.session, this.journal, stream, entries)
  }

  async #appendAll(entries: readonly Entry[]): Promise<void> {
    while (!(await this.append(entries))) if (this.#over) throw new Abandoned()
  }

  async append(entries: readonly Entry[], more?: Changes): Promise<boolean> {
    if (this.#log === undefined) throw new Abandoned()
    if (await this.#log.append(entries, more)) return true
    await this.#catchUp(this.#log)
    return false
  }

  async #catchUp(log: OwnLog): Promise<void> {
    const added = await log.catchUp()
    // Another run has to begin with what is stored.
    if (added === undefined) return this.#lose()
    for (const { kind } of added) {
      if (kind === 'cancel' && !this.#cancelled) void this.cancel()
      if (kind === 'taken' || kind === 'end') this.#lose()
    }
  }

  /** Another holder runs the call, or will: what this one has not written did not happen. */
  #lose(): void {
    this.#settle({ kind: 'failed', error: lost() })
    this.host.stop(this)
  }

  async #commit({ release, ...commit }: Commit & { release?: () => void }): Promise<void> {
    try {
      const outcome = await this.host.session.commit(commit)
      switch (outcome.kind) {
        case 'committed':
          return
        case 'answered':
          this.#replay(outcome.reply)
          break
        case 'conflict':
          // Nobody has seen anything of this run.
          await this.host.rerun(this)
          break
        case 'gone':
          throw sessionNotFound()
      }
    } catch (error) {
      throw this.fail(error)
    } finally {
      release?.()
    }
    throw new Abandoned()
  }

  #replyRecord(answer: RecordedAnswer): { reply?: Reply } {
    return this.identity === undefined ? {} : { reply: { ...this.identity, answer } }
  }

  /** What is said and done becomes visible in the order in which it was said and done. */
  inOrder<T>(act: () => Promise<T>, run = this.run, cancelling = false): Promise<T> {
    const done = this.#queue.then(() => this.#attempt(act, run, cancelling))
    this.#queue = done.catch(() => undefined)
    return done
  }

  async #attempt<T>(act: () => Promise<T>, run: number, cancelling: boolean): Promise<T> {
    this.mustGoOn(run, cancelling)
    try {
      return await act()
    } catch (error) {
      if (error instanceof Abandoned) throw error
      // Whether the last commit was made nobody knows, so the call goes on from what is stored.
      if (this.#log !== undefined && isAway(error)) this.#lose()
      else await this.#failStream(error)
      throw error
    }
  }

  /** What was begun must have an end, even where the rest could not be written. */
  async #failStream(cause: unknown): Promise<void> {
    const known = knownError(cause)
    // What is only noted may be what is too much.
    this.journal.restart()
    await this.#writeEnd({ error: rpcErrorOf(known) }).catch(() => undefined)
    this.fail(known)
  }

  mustGoOn(run: number, cancelling = false): void {
    const isMeant = cancelling || (run === this.run && !this.#cancelled)
    if (this.#over || !isMeant) throw new Abandoned()
  }

  fail(error: unknown): ServerError {
    const known = knownError(error)
    this.#settle({ kind: 'failed', error: known }, true)
    return known
  }

  #replay(reply: Reply): void {
    const answer = answerFrom(reply, this.identity)
    if (answer.kind !== 'failed') this.host.meter(REPLAYED)
    this.#settle(answer)
  }

  #settle(answer: ExchangeAnswer, ended = false): void {
    if (!this.#over) {
      if (this.#log !== undefined) this.host.letGo(this.#log.stream, ended)
      this.host.settled(this, answer)
    }
    this.#over = true
    this.staged.drop()
    this.#resolve(answer)
    this.#done.resolve()
  }
}

const CANCELLED = { code: -32800, message: 'Cannot finish call: the client has cancelled it' }

function knownError(error: unknown): ServerError {
  if (isServerError(error)) return error
  return new ServerError('internal_error', 'Internal error', { cause: error })
}

function lost(): ServerError {
  return new ServerError('call_interrupted', 'Cannot finish call here: it goes on elsewhere')
}
