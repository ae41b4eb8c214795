import type { JSONRPCNotification, JSONRPCRequest, RequestId } from '@modelcontextprotocol/server'
import { isServerError, rpcErrorOf, ServerError, sessionNotFound } from '../errors.ts'
import { questionId } from './call-log.ts'
import type { Clock } from './clock.ts'
import { createStreamId, eventId, type EventId, type StreamId } from './ids.ts'
import { Journal, stateOf, valueOf, type Operation } from './journal.ts'
import type { LiveSession } from './live-session.ts'
import { respond } from './message.ts'
import { freeze, type JsonValue, type SessionState } from './state.ts'
import type {
  Commit,
  Entry,
  Loaded,
  RecordedAnswer,
  Reply,
  Result,
  RpcOutcome,
  SessionRecord,
  Settings,
} from './store.ts'

/** What an exchange needs of the runtime it is part of. */
export interface ExchangeHost {
  readonly session: LiveSession
  readonly clock: Clock
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
  /** Answers a question that nobody has answered. */
  answer(stream: StreamId, op: number, outcome: RpcOutcome): Promise<void>
}

const NEEDS_NO_STATE = /^ping$|\/list$/

type Change = (state: SessionState) => SessionState
export type SettingsChange = (settings: Settings) => Settings

/** What makes a call the same call when it is sent again. */
export type Identity = Pick<Reply, 'key' | 'fingerprint' | 'attempt'>

export type ExchangeAnswer =
  | { readonly kind: 'reply'; readonly outcome: RpcOutcome }
  | { readonly kind: 'stream'; readonly after: EventId; readonly id: RequestId }
  | { readonly kind: 'failed'; readonly error: ServerError }

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
  /** The number of its present run; what an earlier run still does is ignored. */
  run = 0

  readonly #host: ExchangeHost
  readonly #journal = new Journal()
  readonly #resolve: (answer: ExchangeAnswer) => void
  readonly #done = Promise.withResolvers<void>()
  #stream: { readonly id: StreamId; next: number } | undefined
  #staged: { readonly from: number; state: SessionState; readonly release: () => void } | undefined
  #over = false
  #cancelled = false
  #queue: Promise<unknown> = Promise.resolve()
  #updates: Promise<unknown> = Promise.resolve()

  constructor(
    request: JSONRPCRequest,
    identity: Identity | undefined,
    host: ExchangeHost,
    begun?: Begun,
  ) {
    this.request = request
    this.identity = identity
    this.#host = host
    const { promise, resolve } = Promise.withResolvers<ExchangeAnswer>()
    this.answer = promise
    this.#resolve = resolve
    if (begun !== undefined) this.#goOn(begun)
  }

  /** Resolves when the call is over, its stream included. */
  get done(): Promise<void> {
    return this.#done.promise
  }

  get stream(): StreamId | undefined {
    return this.#stream?.id
  }

  restart(run: number): void {
    this.run = run
    this.#journal.restart()
  }

  async read(run = this.run): Promise<SessionState> {
    const { op, known } = this.#begin('read', run)
    if (known !== undefined) return stateOf(known)
    const record = this.#staged ?? (await this.#host.session.load())?.record
    if (record === undefined) throw this.#fail(sessionNotFound())
    this.#mustGoOn(run)
    const { state } = record
    this.#journal.note(op, 'read', { state }, 'version' in record ? record.version : undefined)
    return state
  }

  /** One after the other, also where a tool does not wait: the turn is the call's, not an update's. */
  update(change: Change, run = this.run): Promise<SessionState> {
    const operation = this.#begin('update', run)
    const done = this.#updates.then(() => this.#update(operation, change, run))
    this.#updates = done.catch(() => undefined)
    return done
  }

  /** What `make` answers: noted, and written with what is said or done next. */
  async recall<T extends JsonValue>(
    what: string,
    make: () => T | Promise<T>,
    run = this.run,
  ): Promise<T> {
    const { op, known } = this.#begin(what, run)
    if (known !== undefined) return valueOf(known) as T
    const value = await make()
    this.#mustGoOn(run)
    this.#journal.note(op, what, { value })
    return value
  }

  /** What `make` answers, or that it failed: written before anybody is told. */
  async record<T extends JsonValue>(
    what: string,
    make: (op: number) => T | Promise<T>,
    run = this.run,
  ): Promise<T> {
    const { op, known } = this.#begin(what, run)
    if (known !== undefined) return valueOf(known) as T
    const result = await resultOf(() => make(op))
    await this.#inOrder(() => this.#write([{ kind: 'did', op, what, ...result }]), run)
    return valueOf(result) as T
  }

  /** Sends a notification on the call's stream; one that is muted is only noted. */
  async say(message: JSONRPCNotification, run = this.run, muted = false) {
    const { op, known } = this.#begin(message.method, run)
    if (known !== undefined) return
    if (muted) return this.#journal.note(op, message.method, { value: null })
    await this.#inOrder(() => this.#write([{ kind: 'message', op, message }]), run)
  }

  /** Puts a question to the client. Resolves with the answer, whichever process is given it. */
  async ask(question: JSONRPCRequest, run = this.run): Promise<RpcOutcome> {
    const { op, known } = this.#begin(question.method, run)
    const stream = await this.openStream(run)
    const { clock, askTimeoutMs } = this.#host
    let until = clock.now() + askTimeoutMs
    if (known?.kind === 'message') until = known.until ?? until
    else {
      const message = { ...question, id: questionId(stream, op) }
      await this.#inOrder(() => this.#write([{ kind: 'message', op, message, until }]), run)
    }
    const stop = clock.timer(Math.max(0, until - clock.now()), () => {
      this.#host.answer(stream, op, { error: UNANSWERED }).catch(() => undefined)
    })
    const over = this.#done.promise.then(() => Promise.reject(new Abandoned()))
    return Promise.race([this.#journal.answer(op), over]).finally(stop)
  }

  /** Gives the call a stream before there is anything to say, and writes what was only noted. */
  async openStream(run = this.run): Promise<StreamId> {
    await this.#inOrder(() => this.#write([]), run)
    if (this.#stream === undefined) throw new Abandoned()
    return this.#stream.id
  }

  /** Looks for what others have added to the call's log, if its end is at `last` or behind. */
  async hear(last = Number.POSITIVE_INFINITY): Promise<void> {
    const look = async (): Promise<void> => {
      if (this.#stream === undefined || last < this.#stream.next) return
      // What can't be read now is found with the next commit.
      await this.#catchUp().catch(() => undefined)
    }
    await this.#inOrder(look).catch(() => undefined)
  }

  /** Answers the request. What `change` makes of the session's settings is committed with it. */
  async finish(outcome: RpcOutcome, change?: SettingsChange): Promise<void> {
    await this.#inOrder(() => {
      this.#journal.end()
      return this.#finish(outcome, change)
    }).catch(() => undefined)
  }

  /** Ends the call for its client, and lets go of what was not committed. */
  async cancel(): Promise<void> {
    this.#cancelled = true
    this.#unstage()
    this.#host.stop(this)
    const end = (): Promise<void> => this.#finish({ error: CANCELLED })
    await this.#inOrder(end, this.run, true).catch(() => undefined)
  }

  /** Ends the call with the session it belongs to. */
  abort(error: ServerError): void {
    this.#fail(error)
    this.#host.stop(this)
  }

  #goOn({ stream, entries }: Begun): void {
    this.#stream = { id: stream, next: entries.length + 1 }
    for (const entry of entries) this.#journal.hear(entry)
    this.#host.hold(stream)
    this.#resolve({ kind: 'stream', after: eventId({ stream, after: 1 }), id: this.request.id })
  }

  #begin(what: string, run: number): Operation {
    this.#mustGoOn(run)
    try {
      return this.#journal.begin(what)
    } catch (error) {
      // That its tool is told is not enough: it could go on.
      void this.#inOrder(() => Promise.reject(error)).catch(() => undefined)
      throw error
    }
  }

  async #update({ op, known }: Operation, change: Change, run: number): Promise<SessionState> {
    this.#mustGoOn(run)
    if (known !== undefined) return stateOf(known)
    if (this.#staged !== undefined) {
      this.#staged.state = this.#changed(op, change, this.#staged.state)
      this.#journal.note(op, 'update', { state: this.#staged.state })
      return this.#staged.state
    }
    const release = await this.#host.session.turn()
    try {
      // What is being said may be opening the stream: only then is it known how to commit this.
      await this.#queue
      this.#mustGoOn(run)
      if (this.#stream !== undefined) {
        return await this.#updateNow(op, change, run)
      }
      const { state, version } = this.#host.session.record
      const next = this.#changed(op, change, state)
      this.#staged = { from: version, state: next, release }
      this.#journal.note(op, 'update', { state: next })
      return next
    } finally {
      if (this.#staged === undefined) release()
    }
  }

  /** Once a call's stream is open its updates can't wait for the reply. */
  async #updateNow(op: number, change: Change, run: number): Promise<SessionState> {
    for (
      let record: SessionRecord | undefined = this.#host.session.record;
      record !== undefined;
      record = (await this.#host.session.load())?.record
    ) {
      const from = record.version
      const state = this.#changed(op, change, record.state)
      const entry: Entry = { kind: 'did', op, what: 'update', state }
      const committed = await this.#inOrder(
        () => this.#append([entry], { change: { from, state } }),
        run,
      )
      if (committed) return state
    }
    throw this.#fail(sessionNotFound())
  }

  /** A change that throws is the tool's own affair, on each run the same. */
  #changed(op: number, change: Change, before: SessionState): SessionState {
    try {
      return freeze(change(before))
    } catch (error) {
      this.#journal.note(op, 'update', { error: messageOf(error) })
      throw error
    }
  }

  async #finish(outcome: RpcOutcome, change?: SettingsChange): Promise<void> {
    if (this.#stream !== undefined) {
      await this.#writeEnd(outcome)
    } else if (this.#staged !== undefined) {
      const reply = this.#replyRecord({ kind: 'reply', outcome })
      await this.#commit({ ...this.#takeStaged(), ...reply })
    } else if (change !== undefined) {
      const staged = await this.#host.session.turn()
      await this.#commit({ settings: change(this.#host.session.record.settings), staged })
    } else {
      const loaded = await this.#use()
      if (loaded === undefined) throw sessionNotFound()
      // It changed something when it ran first.
      if (loaded.reply !== undefined) return this.#settle(answerFrom(loaded.reply, this.identity))
    }
    this.#settle({ kind: 'reply', outcome }, true)
  }

  /** While the store is away, what needs no state is answered from what was last known. */
  #use(): Promise<Loaded | undefined> {
    const { session } = this.#host
    return session.load(this.identity?.key).catch((error: unknown) => {
      if (NEEDS_NO_STATE.test(this.request.method)) return { record: session.record }
      throw error
    })
  }

  async #writeEnd(outcome: RpcOutcome): Promise<void> {
    const { id } = this.request
    const end: Entry = { kind: 'end', message: respond(id, outcome) }
    if (this.#stream !== undefined) await this.#appendAll([end])
  }

  async #write(entries: readonly Entry[]): Promise<void> {
    if (this.#stream === undefined) await this.#open(entries)
    else if (entries.length > 0 || this.#journal.hasNotes) await this.#appendAll(entries)
  }

  async #open(entries: readonly Entry[]): Promise<void> {
    const id = createStreamId()
    const batch = this.#journal.batch(entries)
    const all = [{ kind: 'begin', request: this.request } as const, ...batch.entries]
    const reply = this.#replyRecord({ kind: 'stream', stream: id, id: this.request.id })
    this.#host.hold(id)
    try {
      const append = [{ stream: id, at: 1, entries: all }]
      await this.#commit({ ...this.#takeStaged(), ...reply, append })
    } catch (error) {
      this.#host.letGo(id, !isAway(error))
      throw error
    }
    this.#journal.written(batch)
    this.#stream = { id, next: all.length + 1 }
    this.#resolve({ kind: 'stream', after: eventId({ stream: id, after: 1 }), id: this.request.id })
  }

  async #appendAll(entries: readonly Entry[]): Promise<void> {
    while (!(await this.#append(entries))) if (this.#over) throw new Abandoned()
  }

  /**
   * Writes what is noted, `entries` and `commit` at the log's end as it is known here. False if that
   * is not its end, which is then looked for, or if the state has another version.
   */
  async #append(entries: readonly Entry[], commit: Pick<Commit, 'change'> = {}): Promise<boolean> {
    const stream = this.#stream
    if (stream === undefined) throw new Abandoned()
    const version = commit.change && commit.change.from + 1
    const batch = this.#journal.batch(entries, version)
    const append = [{ stream: stream.id, at: stream.next, entries: batch.entries }]
    const outcome = await this.#host.session.commit({ ...commit, append })
    if (outcome.kind === 'gone') throw sessionNotFound()
    if (outcome.kind === 'committed') {
      this.#journal.written(batch)
      stream.next += batch.entries.length
      return true
    }
    await this.#catchUp()
    return false
  }

  /** Takes in what others have added to the log since this holder last wrote to it. */
  async #catchUp(): Promise<void> {
    const stream = this.#stream
    if (stream === undefined) return
    const stored = await this.#host.session.entries(stream.id, stream.next - 1)
    if (stored === undefined) throw sessionNotFound()
    for (const entry of stored.entries) {
      stream.next++
      this.#journal.hear(entry)
      if (entry.kind === 'cancel' && !this.#cancelled) void this.cancel()
      if (entry.kind === 'taken' || entry.kind === 'end') this.#lose()
    }
  }

  /** Another holder runs the call, or will: what this one has not written did not happen. */
  #lose(): void {
    this.#settle({ kind: 'failed', error: lost() })
    this.#host.stop(this)
  }

  async #commit({ staged, ...commit }: Commit & { staged?: () => void }): Promise<void> {
    try {
      const outcome = await this.#host.session.commit(commit)
      switch (outcome.kind) {
        case 'committed':
          return
        case 'answered':
          this.#settle(answerFrom(outcome.reply, this.identity))
          break
        case 'conflict':
          // Nobody has seen anything of this run.
          await this.#host.rerun(this)
          break
        case 'gone':
          throw sessionNotFound()
      }
    } catch (error) {
      throw this.#fail(error)
    } finally {
      staged?.()
    }
    throw new Abandoned()
  }

  #replyRecord(answer: RecordedAnswer): { reply?: Reply } {
    return this.identity === undefined ? {} : { reply: { ...this.identity, answer } }
  }

  #takeStaged(): Pick<Commit, 'change'> & { staged?: () => void } {
    if (this.#staged === undefined) return {}
    const { from, state, release } = this.#staged
    this.#staged = undefined
    return { change: { from, state }, staged: release }
  }

  #unstage(): void {
    this.#takeStaged().staged?.()
  }

  /** What is said and done becomes visible in the order in which it was said and done. */
  #inOrder<T>(act: () => Promise<T>, run = this.run, cancelling = false): Promise<T> {
    const done = this.#queue.then(() => this.#attempt(act, run, cancelling))
    this.#queue = done.catch(() => undefined)
    return done
  }

  async #attempt<T>(act: () => Promise<T>, run: number, cancelling: boolean): Promise<T> {
    this.#mustGoOn(run, cancelling)
    try {
      return await act()
    } catch (error) {
      if (error instanceof Abandoned) throw error
      // Whether the last commit was made nobody knows, so the call goes on from what is stored.
      if (this.#stream !== undefined && isAway(error)) this.#lose()
      else await this.#failStream(error)
      throw error
    }
  }

  /** What was begun must have an end, even where the rest could not be written. */
  async #failStream(error: unknown): Promise<void> {
    const known = knownError(error)
    await this.#writeEnd({ error: rpcErrorOf(known) }).catch(() => undefined)
    this.#fail(known)
  }

  #mustGoOn(run: number, cancelling = false): void {
    if (this.#over || (this.#cancelled && !cancelling) || run !== this.run) throw new Abandoned()
  }

  #fail(error: unknown): ServerError {
    const known = knownError(error)
    this.#settle({ kind: 'failed', error: known }, true)
    return known
  }

  #settle(answer: ExchangeAnswer, ended = false): void {
    if (this.#stream !== undefined && !this.#over) this.#host.letGo(this.#stream.id, ended)
    this.#over = true
    this.#unstage()
    this.#resolve(answer)
    this.#done.resolve()
  }
}

/** Thrown into a run that nobody waits for any more. */
class Abandoned extends Error {
  constructor() {
    super('Cannot go on: this run of the call is over')
  }
}

const CANCELLED = { code: -32800, message: 'Cannot finish call: the client has cancelled it' }
const UNANSWERED = { code: -32001, message: 'Cannot go on: the client has not answered in time' }

function knownError(error: unknown): ServerError {
  return isServerError(error) ? error : new ServerError('internal_error', 'Internal error')
}

function isAway(error: unknown): boolean {
  return isServerError(error) && error.code === 'store_unavailable'
}

function lost(): ServerError {
  return new ServerError('call_interrupted', 'Cannot finish call here: it goes on elsewhere')
}

async function resultOf(make: () => JsonValue | Promise<JsonValue>): Promise<Result> {
  try {
    return { value: await make() }
  } catch (error) {
    return { error: messageOf(error) }
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

function answerFrom(reply: Reply, identity: Identity | undefined): ExchangeAnswer {
  if (reply.fingerprint !== identity?.fingerprint) return { kind: 'failed', error: keyConflict() }
  const { answer } = reply
  if (answer.kind === 'reply') return answer
  return { kind: 'stream', after: eventId({ stream: answer.stream, after: 1 }), id: answer.id }
}

export function keyConflict(): ServerError {
  const why = 'it was used for a call with other arguments'
  return new ServerError('idempotency_key_conflict', `Cannot use idempotency key again: ${why}`)
}
