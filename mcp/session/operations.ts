import type { JSONRPCNotification, JSONRPCRequest } from '@modelcontextprotocol/server'
import { isAway, messageOf, sessionNotFound } from '../errors.ts'
import { questionId } from './call-log.ts'
import { AWAY_MS } from './clock.ts'
import type { Exchange } from './exchange.ts'
import { Abandoned, resultOf, stateOf, valueOf, type Operation } from './journal.ts'
import { freeze, type JsonValue, type SessionState } from './state.ts'
import type { Entry, RpcOutcome, SessionRecord } from './store.ts'

type Change = (state: SessionState) => SessionState

/**
 * What one run of a call does, and all that it is told. Each operation is numbered when it begins:
 * what an earlier run has recorded under its number is not done again but told again.
 */
export class Operations {
  readonly run: number
  readonly #exchange: Exchange
  #stop: AbortController | undefined
  #updates: Promise<unknown> = Promise.resolve()
  // Most calls ask nothing.
  #reserved: Map<number, Operation> | undefined

  constructor(exchange: Exchange, run: number) {
    this.#exchange = exchange
    this.run = run
  }

  /** Aborted when nobody waits for the run any more. */
  get signal(): AbortSignal {
    return (this.#stop ??= new AbortController()).signal
  }

  stop(): void {
    this.#stop ??= new AbortController()
    this.#stop.abort()
  }

  async read(): Promise<SessionState> {
    const { op, known } = this.#begin('read')
    if (known !== undefined) return stateOf(known)
    const { staged, journal } = this.#exchange
    const record = staged.state === undefined ? await this.#load() : undefined
    const state = staged.state ?? record?.state
    if (state === undefined) throw this.#exchange.fail(sessionNotFound())
    this.#mustGoOn()
    journal.note(op, 'read', { state }, record?.version)
    return state
  }

  /** One after the other, also where a tool does not wait: the turn is the call's, not an update's. */
  update(change: Change): Promise<SessionState> {
    const operation = this.#begin('update')
    const done = this.#updates.then(() => this.#update(operation, change))
    this.#updates = done.catch(() => undefined)
    return done
  }

  /** What `make` answers: noted, and written with what is said or done next. */
  async recall<T extends JsonValue>(what: string, make: () => T | Promise<T>): Promise<T> {
    const { op, known } = this.#begin(what)
    if (known !== undefined) return valueOf(known) as T
    const result = await resultOf(() => this.#fromStore(make))
    this.#mustGoOn()
    this.#exchange.journal.note(op, what, result)
    return valueOf(result) as T
  }

  /** What `make` answers, or that it failed: written before anybody is told. */
  async record<T extends JsonValue>(
    what: string,
    make: (op: number) => T | Promise<T>,
  ): Promise<T> {
    return this.#record(this.#begin(what), what, make)
  }

  /** Runs `make` with a key that is the same on each run, once what it may depend on is written. */
  async step<T extends JsonValue>(name: string, make: (key: string) => Promise<T>): Promise<T> {
    const what = `step ${name}`
    const operation = this.#begin(what)
    const stream = await this.#exchange.openStream(this.run)
    return this.#record(operation, what, (op) => make(`${stream}/${op}/${name}`))
  }

  /** Sends a notification on the call's stream; one that is muted is only noted. */
  async say(message: JSONRPCNotification, muted = false): Promise<void> {
    const { op, known } = this.#begin(message.method)
    if (known !== undefined) return
    if (muted) this.#exchange.journal.note(op, message.method, { value: null })
    else await this.#write({ kind: 'message', op, message })
  }

  /** Begins a question that is put later: it has its number from when the tool asks. */
  reserve(method: string): number {
    const reserved = (this.#reserved ??= new Map())
    const operation = this.#begin(method)
    reserved.set(operation.op, operation)
    return operation.op
  }

  /** Puts a question to the client. Resolves with the answer, whichever process is given it. */
  async ask(question: JSONRPCRequest, reserved = 0): Promise<RpcOutcome> {
    const { op, known } = this.#reserved?.get(reserved) ?? this.#begin(question.method)
    const { host, journal, done } = this.#exchange
    const { clock, askTimeoutMs } = host
    const stream = await this.#exchange.openStream(this.run)
    let until = clock.now() + askTimeoutMs
    if (known?.kind === 'message') until = known.until ?? until
    else {
      const message = { ...question, id: questionId(stream, op) }
      await this.#write({ kind: 'message', op, message, until })
    }
    let stop = (): void => undefined
    const expireIn = (ms: number): void => {
      stop = clock.timer(ms, () => {
        host.answer(stream, op, { error: UNANSWERED }).catch(() => expireIn(AWAY_MS))
      })
    }
    expireIn(Math.max(0, until - clock.now()))
    const over = done.then(() => Promise.reject(new Abandoned()))
    return Promise.race([journal.answer(op), over]).finally(() => stop())
  }

  #begin(what: string): Operation {
    this.#mustGoOn()
    try {
      return this.#exchange.journal.begin(what)
    } catch (error) {
      // That its tool is told is not enough: it could go on.
      this.#exchange.failRun(this.run, error)
      throw error
    }
  }

  async #record<T extends JsonValue>(
    { op, known }: Operation,
    what: string,
    make: (op: number) => T | Promise<T>,
  ): Promise<T> {
    if (known !== undefined) return valueOf(known) as T
    const result = await resultOf(() => make(op))
    await this.#write({ kind: 'did', op, what, ...result })
    return valueOf(result) as T
  }

  async #update({ op, known }: Operation, change: Change): Promise<SessionState> {
    const { staged, host, journal } = this.#exchange
    this.#mustGoOn()
    if (known !== undefined) return stateOf(known)
    if (staged.state !== undefined) {
      const state = staged.replace(this.#changed(op, change, staged.state))
      journal.note(op, 'update', { state })
      return state
    }
    const release = await host.session.turn()
    try {
      // What is being said may be opening the stream: only then is it known how to commit this.
      await this.#exchange.written
      this.#mustGoOn()
      if (this.#exchange.stream !== undefined) return await this.#updateNow(op, change)
      const { state: before, version: from } = host.session.record
      const state = this.#changed(op, change, before)
      staged.stage({ from, state }, release)
      journal.note(op, 'update', { state })
      return state
    } finally {
      if (staged.state === undefined) release()
    }
  }

  /** Once a call's stream is open its updates can't wait for the reply. */
  async #updateNow(op: number, change: Change): Promise<SessionState> {
    const { session } = this.#exchange.host
    for (let record: SessionRecord | undefined = session.record; record !== undefined;) {
      const state = this.#changed(op, change, record.state)
      const next = { change: { from: record.version, state } }
      const entry: Entry = { kind: 'did', op, what: 'update', state }
      const append = (): Promise<boolean> => this.#exchange.append([entry], next)
      if (await this.#exchange.inOrder(append, this.run)) return state
      record = await this.#load()
    }
    throw this.#exchange.fail(sessionNotFound())
  }

  /** A change that throws is the tool's own affair, on each run the same. */
  #changed(op: number, change: Change, before: SessionState): SessionState {
    try {
      return freeze(change(before))
    } catch (error) {
      this.#exchange.journal.note(op, 'update', { error: messageOf(error) })
      throw error
    }
  }

  async #load(): Promise<SessionRecord | undefined> {
    return (await this.#fromStore(() => this.#exchange.host.session.load()))?.record
  }

  /** That the store is away is nothing that a tool could be told: the call itself can't go on here. */
  async #fromStore<T>(look: () => T | Promise<T>): Promise<T> {
    try {
      return await look()
    } catch (error) {
      if (!isAway(error)) throw error
      return this.#exchange.inOrder(() => Promise.reject(error), this.run)
    }
  }

  async #write(entry: Entry): Promise<void> {
    await this.#exchange.inOrder(() => this.#exchange.write([entry]), this.run)
  }

  #mustGoOn(): void {
    this.#exchange.mustGoOn(this.run)
  }
}

const UNANSWERED = { code: -32001, message: 'Cannot go on: the client has not answered in time' }
