import type { JSONRPCMessage, JSONRPCRequest, RequestId } from '@modelcontextprotocol/server'
import { isServerError, rpcErrorOf, ServerError, sessionNotFound } from '../errors.ts'
import { createStreamId, eventId, type EventId, type StreamId } from './ids.ts'
import type { LiveSession } from './live-session.ts'
import { freeze, type SessionState } from './state.ts'
import type {
  Commit,
  Entry,
  Loaded,
  RecordedAnswer,
  Reply,
  RpcOutcome,
  SessionRecord,
  Settings,
} from './store.ts'

/** What an exchange needs of the runtime it is part of. */
export interface ExchangeHost {
  readonly session: LiveSession
  /** Runs `exchange` from its start, on a newly loaded record. */
  rerun(exchange: Exchange): Promise<void>
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

/**
 * One client request from its delivery to its answer. As long as it says nothing before its
 * reply, all it does is one commit, made when the reply is known: new state and reply record.
 * The first thing it says opens its stream; from then on each thing is committed as it comes.
 */
export class Exchange {
  readonly request: JSONRPCRequest
  readonly identity: Identity | undefined
  readonly answer: Promise<ExchangeAnswer>
  /** The number of its present run; what an earlier run still does is ignored. */
  run = 0

  readonly #host: ExchangeHost
  readonly #resolve: (answer: ExchangeAnswer) => void
  readonly #done = Promise.withResolvers<void>()
  #stream: { readonly id: StreamId; next: number } | undefined
  #staged: { readonly from: number; state: SessionState; readonly release: () => void } | undefined
  #over = false
  #queue: Promise<unknown> = Promise.resolve()
  #updates: Promise<unknown> = Promise.resolve()

  constructor(request: JSONRPCRequest, identity: Identity | undefined, host: ExchangeHost) {
    this.request = request
    this.identity = identity
    this.#host = host
    const { promise, resolve } = Promise.withResolvers<ExchangeAnswer>()
    this.answer = promise
    this.#resolve = resolve
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
  }

  async read(run = this.run): Promise<SessionState> {
    this.#mustGoOn(run)
    if (this.#staged !== undefined) return this.#staged.state
    const record = (await this.#host.session.load())?.record
    if (record === undefined) throw this.#fail(sessionNotFound())
    return record.state
  }

  /** One after the other, also where a tool does not wait: the turn is the call's, not an update's. */
  update(change: Change, run = this.run): Promise<SessionState> {
    const done = this.#updates.then(() => this.#update(change, run))
    this.#updates = done.catch(() => undefined)
    return done
  }

  /** Sends a notification or question on the call's stream. */
  async say(message: JSONRPCMessage): Promise<void> {
    await this.#inOrder(() => this.#write([{ kind: 'message', message }]))
  }

  /** Answers the request with its stream, before there is anything to say. */
  async openStream(run = this.run): Promise<StreamId> {
    await this.#inOrder(() => this.#write([]), run)
    if (this.#stream === undefined) throw new Abandoned()
    return this.#stream.id
  }

  /** Answers the request. What `change` makes of the session's settings is committed with it. */
  async finish(outcome: RpcOutcome, change?: SettingsChange): Promise<void> {
    await this.#inOrder(() => this.#finish(outcome, change)).catch(() => undefined)
  }

  /** Answers the request with `error` and lets go of what was not committed. */
  async abort(error: ServerError | RpcOutcome): Promise<void> {
    this.#unstage()
    if (isServerError(error)) this.#fail(error)
    else await this.finish(error)
  }

  async #update(change: Change, run: number): Promise<SessionState> {
    this.#mustGoOn(run)
    if (this.#staged !== undefined) return (this.#staged.state = freeze(change(this.#staged.state)))
    const release = await this.#host.session.turn()
    try {
      // What is being said may be opening the stream: only then is it known how to commit this.
      await this.#queue
      this.#mustGoOn(run)
      if (this.#stream !== undefined) return await this.#updateNow(change)
      const { state, version } = this.#host.session.record
      const next = freeze(change(state))
      this.#staged = { from: version, state: next, release }
      return next
    } finally {
      if (this.#staged === undefined) release()
    }
  }

  async #finish(outcome: RpcOutcome, change: SettingsChange | undefined): Promise<void> {
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
    this.#settle({ kind: 'reply', outcome })
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
    if (this.#stream === undefined) return
    await this.#write([{ kind: 'end', message: respond(this.request.id, outcome) }])
  }

  async #write(entries: readonly Entry[]): Promise<void> {
    if (this.#stream !== undefined) {
      if (entries.length === 0) return
      await this.#commit({ append: [{ stream: this.#stream.id, at: this.#stream.next, entries }] })
      this.#stream.next += entries.length
      return
    }
    const stream = createStreamId()
    const all = [{ kind: 'begin', request: this.request } as const, ...entries]
    const reply = this.#replyRecord({ kind: 'stream', stream, id: this.request.id })
    await this.#commit({
      ...this.#takeStaged(),
      ...reply,
      append: [{ stream, at: 1, entries: all }],
    })
    this.#stream = { id: stream, next: all.length + 1 }
    this.#resolve({ kind: 'stream', after: eventId({ stream, after: 1 }), id: this.request.id })
  }

  /** Once a call's stream is open its updates can't wait for the reply. */
  async #updateNow(change: Change): Promise<SessionState> {
    for (let record: SessionRecord | undefined = this.#host.session.record; record !== undefined;) {
      const state = freeze(change(record.state))
      const outcome = await this.#host.session.commit({ change: { from: record.version, state } })
      if (outcome.kind === 'committed') return state
      record = (await this.#host.session.load())?.record
    }
    throw this.#fail(sessionNotFound())
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
          // Before the first word nobody has seen anything of this run; after it, a conflict
          // means that another holder runs this call.
          if (this.#stream === undefined) await this.#host.rerun(this)
          else this.#settle({ kind: 'failed', error: interrupted() })
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
  #inOrder(act: () => Promise<void>, run = this.run): Promise<void> {
    const done = this.#queue.then(() => this.#attempt(act, run))
    this.#queue = done.catch(() => undefined)
    return done
  }

  async #attempt(act: () => Promise<void>, run: number): Promise<void> {
    this.#mustGoOn(run)
    try {
      await act()
    } catch (error) {
      if (error instanceof Abandoned) throw error
      const known = this.#fail(error)
      // What was begun must have an end, even where the rest could not be written.
      await this.#writeEnd({ error: rpcErrorOf(known) }).catch(() => undefined)
      throw known
    }
  }

  #mustGoOn(run: number): void {
    if (this.#over || run !== this.run) throw new Abandoned()
  }

  #fail(error: unknown): ServerError {
    const known = isServerError(error) ? error : new ServerError('internal_error', 'Internal error')
    this.#settle({ kind: 'failed', error: known })
    return known
  }

  #settle(answer: ExchangeAnswer): void {
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

export function interrupted(): ServerError {
  return new ServerError('call_interrupted', 'Cannot finish call: the process that ran it ended')
}

export function respond(id: RequestId, outcome: RpcOutcome): JSONRPCMessage {
  return { jsonrpc: '2.0', id, ...outcome } as JSONRPCMessage
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
