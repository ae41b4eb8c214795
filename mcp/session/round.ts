import type { JSONRPCNotification } from '@modelcontextprotocol/server'
import { messageOf, ServerError, sessionNotFound } from '../errors.ts'
import { REPLAYED, type Meter } from '../meter.ts'
import type { Operator } from './call.ts'
import type { Clock } from './clock.ts'
import { keyConflict, type Identity } from './identity.ts'
import type { StreamId } from './ids.ts'
import { Journal, resultOf, valueOf, type Operation } from './journal.ts'
import type { LiveSession } from './live-session.ts'
import { outcomeOf } from './message.ts'
import { StagedChange } from './staged-change.ts'
import { freeze, type JsonObject, type JsonValue, type SessionState } from './state.ts'
import type { Entry, Reply, Result, RpcOutcome } from './store.ts'

/** A question to the client, as an `input_required` result carries it. */
export interface Question {
  readonly method: 'elicitation/create' | 'sampling/createMessage'
  readonly params: JsonObject
}

/** What the rounds of a call have come to so far. The client brings it back with its answers. */
export interface RoundState {
  /** Names the call over all its rounds. */
  readonly call: string
  /** The number of the next round; the first is 0. */
  readonly round: number
  readonly did: readonly Did[]
  /** What was asked, by the number of the operation. */
  readonly asked: Readonly<Record<string, Question>>
}

type Did = Extract<Entry, { kind: 'did' }>

export interface RoundRequest {
  readonly clock: Clock
  readonly meter: Meter
  /** What makes it the same round when it is sent again. */
  readonly identity: Identity | undefined
  /** Aborted when the client has gone: then the call is to have no effect. */
  readonly signal: AbortSignal
  readonly before: RoundState
  /** The key that a step passes on. */
  readonly keyOf: (step: string) => Promise<string>
  /** The client's answers, by the number of the operation that asked. */
  readonly answers: Readonly<Record<string, unknown>>
  /** Whether the client has said that it can answer this. */
  readonly canAsk: (question: Question) => boolean
  /** Sends a notification on the request's stream. */
  readonly say: (message: JSONRPCNotification) => Promise<void>
  /** The `input_required` result with which the client is asked. */
  readonly ask: (state: RoundState) => Promise<JsonObject>
}

/** Thrown into a tool that asks what its client can't answer. It may do without. */
export class Unaskable extends Error {
  constructor({ method }: Question) {
    super(`Client does not support ${method.split('/')[0]}`)
  }
}

type Change = (state: SessionState) => SessionState
type Stop = { readonly kind: 'asks' } | { readonly kind: 'answered'; readonly reply: Reply }

const OVER = new Error('Cannot go on: this round of the call is over')
// It comes back with each answer, so it had better be short.
const MAX_ROUND_CHARS = 64 * 1024

/**
 * Runs a tool for one request of the stateless revision: to its end, or to what only the client can
 * tell. Nothing of it is kept but what it has changed and what it has answered, in one commit.
 */
export async function runRound(
  session: LiveSession | undefined,
  request: RoundRequest,
  tool: (round: Round) => Promise<JsonObject>,
): Promise<JsonObject> {
  const memory: Memory = { said: [], steps: new Map() }
  for (;;) {
    const round = new Round(session, request, memory)
    const result = await round.run(tool)
    if (result !== undefined) return result
    await session?.load()
  }
}

/** What a run leaves to the next one, when another commit came first. */
interface Memory {
  readonly said: string[]
  readonly steps: Map<string, Result>
}

/** One run of a tool, and what it is told. Its operations are numbered as those of any call. */
export class Round implements Operator {
  readonly #session: LiveSession | undefined
  readonly #request: RoundRequest
  readonly #memory: Memory
  readonly #journal = new Journal()
  readonly #staged = new StagedChange()
  readonly #did: Did[]
  readonly #asked = new Map<number, Question>()
  readonly #stop = Promise.withResolvers<Stop>()
  #updates: Promise<unknown> = Promise.resolve()
  #said = 0
  // Made for those who look.
  #signal: AbortSignal | undefined
  #failure: unknown

  constructor(session: LiveSession | undefined, request: RoundRequest, memory: Memory) {
    this.#session = session
    this.#request = request
    this.#memory = memory
    this.#did = [...request.before.did]
    for (const entry of this.#did) this.#journal.hear(entry)
  }

  get signal(): AbortSignal {
    return (this.#signal ??= AbortSignal.any(this.#ends))
  }

  /** What is aborted when nobody waits for the call any more. */
  get #ends(): AbortSignal[] {
    const { signal } = this.#request
    return this.#session === undefined ? [signal] : [signal, this.#session.ended]
  }

  /** The result to send; `undefined` if another commit came first. */
  async run(tool: (round: Round) => Promise<JsonObject>): Promise<JsonObject | undefined> {
    const gone = ({ target }: Event): void => {
      this.#stop.reject((target as AbortSignal).reason)
    }
    for (const end of this.#ends) end.addEventListener('abort', gone, { once: true })
    this.#stop.promise.catch(() => undefined)
    const replied = tool(this).then((result) => ({ kind: 'replied', result }) as const)
    replied.catch(() => undefined)
    try {
      const end = await Promise.race([replied, this.#stop.promise])
      await this.#updates
      if (this.#failure !== undefined) throw this.#failure
      if (end.kind === 'answered') return await this.#recorded(end.reply)
      if (end.kind === 'replied') this.#journal.end()
      // What the tool still does besides is for the next round, if there is one.
      this.#failure = OVER
      const result = end.kind === 'replied' ? end.result : await this.#request.ask(this.#state())
      return await this.#finish(result)
    } catch (error) {
      if (!(error instanceof Unaskable)) throw error
      // The SDK refuses to ask this client, and nothing of the call stays.
      return await this.#request.ask(this.#state())
    } finally {
      for (const end of this.#ends) end.removeEventListener('abort', gone)
      this.#failure ??= OVER
      this.#staged.drop()
    }
  }

  /** As it is now, in each round: what was seen in an earlier one is not kept for the next. */
  async read(): Promise<SessionState> {
    this.#begin('read')
    return this.#staged.state ?? (await this.#load()).state
  }

  update(change: Change): Promise<SessionState> {
    const operation = this.#begin('update')
    const done = this.#updates.then(() => this.#update(operation, change))
    this.#updates = done.catch(() => undefined)
    return done
  }

  recall<T extends JsonValue>(what: string, make: () => T | Promise<T>): Promise<T> {
    return this.record(what, make)
  }

  async record<T extends JsonValue>(
    what: string,
    make: (op: number) => T | Promise<T>,
  ): Promise<T> {
    const { op, known } = this.#begin(what)
    const result = known ?? (await resultOf(() => make(op)))
    if (known === undefined) this.#note(op, what, result as Result)
    return valueOf(result) as T
  }

  step<T extends JsonValue>(name: string, make: (key: string) => Promise<T>): Promise<T> {
    return this.record(`step ${name}`, async (op) => {
      await this.#mustBeNew()
      const { before, keyOf } = this.#request
      const step = `${before.call}/${op}/${name}`
      const known = this.#memory.steps.get(step)
      const result = known ?? (await resultOf(async () => make(await keyOf(step))))
      this.#memory.steps.set(step, result)
      return valueOf(result) as T
    })
  }

  async say(message: JSONRPCNotification, muted = false): Promise<void> {
    const { op, known } = this.#begin(message.method)
    if (known !== undefined) return
    this.#note(op, message.method, { value: null })
    if (muted) return
    const [text, at] = [JSON.stringify(message), this.#said++]
    if (this.#memory.said[at] === text) return
    this.#memory.said[at] = text
    await this.#request.say(message)
  }

  /** The client's answer; this round ends here if it has not been asked, or was asked otherwise. */
  async ask(question: Question): Promise<JsonValue> {
    const { op, known } = this.#begin(question.method)
    if (known !== undefined) return valueOf(known)
    const { answers, before } = this.#request
    const answer = answers[op]
    if (answer !== undefined && isSame(before.asked[op], question)) {
      const result = { value: answer as JsonValue }
      this.#note(op, question.method, result)
      return valueOf(result)
    }
    this.#asked.set(op, question)
    if (!this.#request.canAsk(question)) throw new Unaskable(question)
    // What the tool asks at the same time is asked together.
    this.#request.clock.timer(0, () => this.#stop.resolve({ kind: 'asks' }))
    return forever()
  }

  #mustGoOn(): void {
    this.#request.signal.throwIfAborted()
    if (this.#failure !== undefined) throw this.#failure
  }

  #begin(what: string): Operation {
    this.#mustGoOn()
    try {
      return this.#journal.begin(what)
    } catch (error) {
      // That its tool is told is not enough: it could go on.
      this.#failure = error
      throw error
    }
  }

  async #update({ op, known }: Operation, change: Change): Promise<SessionState> {
    if (known !== undefined) {
      valueOf(known)
      return this.#staged.state ?? (await this.#load()).state
    }
    const session = this.#mustHave()
    this.#mustGoOn()
    if (this.#staged.state !== undefined) {
      const state = this.#staged.replace(this.#changed(op, change, this.#staged.state))
      this.#note(op, 'update', {})
      return state
    }
    const release = await session.turn()
    try {
      // What this has waited for may have been the end of its round.
      this.#mustGoOn()
      const { state: before, version: from } = session.record
      const state = this.#changed(op, change, before)
      this.#staged.stage({ from, state }, release)
      this.#note(op, 'update', {})
      return state
    } finally {
      if (this.#staged.state === undefined) release()
    }
  }

  #changed(op: number, change: Change, before: SessionState): SessionState {
    try {
      return freeze(change(before))
    } catch (error) {
      this.#note(op, 'update', { error: messageOf(error) })
      throw error
    }
  }

  async #load(): Promise<{ readonly state: SessionState }> {
    const loaded = await this.#mustHave().load()
    if (loaded === undefined) throw this.#fail(sessionNotFound())
    return loaded.record
  }

  /** An effect outside the session is not for one that is over, nor for a call that was answered. */
  async #mustBeNew(): Promise<void> {
    if (this.#session === undefined || this.#memory.steps.size > 0) return
    const loaded = await this.#session.load(this.#request.identity)
    if (loaded === undefined) throw this.#fail(sessionNotFound())
    const { reply } = loaded
    if (reply === undefined) return
    this.#stop.resolve({ kind: 'answered', reply })
    await forever()
  }

  #mustHave(): LiveSession {
    if (this.#session !== undefined) return this.#session
    throw new Error('Cannot use state: the tool is declared to need no session')
  }

  async #finish(result: JsonObject): Promise<JsonObject | undefined> {
    const { identity, signal } = this.#request
    signal.throwIfAborted()
    if (this.#session === undefined) return result
    if (this.#staged.state !== undefined) return this.#commit(this.#session, result)
    const loaded = await this.#session.load(identity)
    if (loaded === undefined) throw sessionNotFound()
    // It changed something when it ran first.
    return loaded.reply === undefined ? result : this.#recorded(loaded.reply)
  }

  async #commit(session: LiveSession, result: JsonObject): Promise<JsonObject | undefined> {
    const { identity } = this.#request
    const { release, ...change } = this.#staged.take()
    const answer = { kind: 'reply', outcome: { result } } as const
    const reply = identity && { reply: { ...identity, answer } }
    try {
      const outcome = await session.commit({ ...change, ...reply })
      if (outcome.kind === 'gone') throw sessionNotFound()
      if (outcome.kind === 'answered') return await this.#recorded(outcome.reply)
      return outcome.kind === 'committed' ? result : undefined
    } finally {
      release?.()
    }
  }

  async #recorded({ fingerprint, answer }: Reply): Promise<JsonObject> {
    if (fingerprint !== this.#request.identity?.fingerprint) throw keyConflict()
    const outcome = answer.kind === 'reply' ? answer.outcome : await this.#told(answer.stream)
    this.#request.meter(REPLAYED)
    if ('result' in outcome) return outcome.result
    throw new Error(`Cannot finish call: ${JSON.stringify(outcome.error['message'])}`)
  }

  /** The reply of a call that a client of a revision with sessions has begun, under the same key. */
  async #told(stream: StreamId): Promise<RpcOutcome> {
    const last = (await this.#session?.entries(stream, 0))?.entries.at(-1)
    if (last?.kind === 'end' && !('method' in last.message)) return outcomeOf(last.message)
    const why = 'it still runs, on a stream of its session'
    throw new ServerError('call_interrupted', `Cannot answer call again: ${why}`)
  }

  #note(op: number, what: string, result: Result): void {
    this.#did.push({ kind: 'did', op, what, ...result })
  }

  #state(): RoundState {
    const { call, round } = this.#request.before
    const asked = Object.fromEntries(this.#asked)
    const state = { call, round: round + 1, did: [...this.#did], asked }
    if (JSON.stringify(state).length <= MAX_ROUND_CHARS) return state
    const bound = `${MAX_ROUND_CHARS} characters`
    throw new ServerError('journal_full', `Cannot ask: the call has recorded over ${bound}`)
  }

  #fail(error: ServerError): ServerError {
    this.#failure ??= error
    return error
  }
}

function isSame(asked: Question | undefined, question: Question): boolean {
  return JSON.stringify(asked) === JSON.stringify(JSON.parse(JSON.stringify(question)))
}

function forever(): Promise<never> {
  return new Promise(() => undefined)
}
