import { ServerError, messageOf } from '../errors.ts'
import type { JsonValue, SessionState } from './state.ts'
import type { Entry, Result, RpcOutcome } from './store.ts'

// What one call may record. The longest of this server's own tools takes 30,000 entries.
const MAX_ENTRIES = 50_000
const MAX_CHARS = 8_000_000

export interface Operation {
  /** Its number, in the order in which the tool began its operations; counts from 1. */
  readonly op: number
  /** Set if an earlier run has done it. */
  readonly known?: Recorded | undefined
}

type Recorded = Entry & { readonly kind: 'message' | 'did' }
type Noted = { readonly entry: Entry; readonly version?: number | undefined }

/** What is to be written next, and what will have been written with it. */
export interface Batch {
  readonly entries: readonly Entry[]
  readonly notes: number
  readonly chars: number
  readonly version: number | undefined
}

/**
 * What a call has done, operation by operation. A tool is a function of what its call tells it, so a
 * run that is told the same again arrives where the one before it was. What an operation came to is
 * only noted at first: it is written with the next thing that anybody can see.
 */
export class Journal {
  // Most calls are over before they need either.
  #known: Map<number, Recorded> | undefined
  #answers: Map<number, PromiseWithResolvers<RpcOutcome>> | undefined
  #notes: Noted[] = []
  #ops = 0
  #entries = 0
  #chars = 0
  /** The state that the last written entry speaks of; its version, if it has one that is known. */
  #state: SessionState = {}
  #version: number | undefined

  /** Forgets a run of which nothing was written. */
  restart(): void {
    this.#notes = []
    this.#ops = 0
  }

  /** Takes in an entry that was written before this run, or by another process since. */
  hear(entry: Entry): void {
    this.#entries++
    this.#chars += JSON.stringify(entry).length
    if (entry.kind === 'answer') return this.#answerTo(entry.op).resolve(entry.outcome)
    if (entry.kind !== 'message' && entry.kind !== 'did') return
    const filled = withState(entry, this.#state)
    if ('state' in filled && filled.state !== undefined) this.#state = filled.state
    if (filled.op !== undefined) (this.#known ??= new Map()).set(filled.op, filled)
  }

  /** Begins the next operation, which an earlier run must have begun here as well, if it got here. */
  begin(what: string): Operation {
    const op = ++this.#ops
    const known = this.#known?.get(op)
    this.#known?.delete(op)
    if (known === undefined || nameOf(known) === what) return { op, known }
    throw notDeterministic(`its operation ${op} was ${nameOf(known)} before and is ${what} now`)
  }

  /** The tool is done. What an earlier run did it must have done as well. */
  end(): void {
    const left = this.#known?.values().next().value
    if (left === undefined) return
    throw notDeterministic(`it ended before its operation ${left.op}, ${nameOf(left)}`)
  }

  note(op: number, what: string, result: Result, version?: number): void {
    this.#notes.push({ entry: { kind: 'did', op, what, ...result }, version })
  }

  /** All that is noted, and `entries` behind it. */
  batch(entries: readonly Entry[], version?: number): Batch {
    const all = [...this.#notes, ...entries.map((entry) => ({ entry, version }))]
    let last = this.#version
    const batch = all.map(({ entry, version: its }) => {
      if (entry.kind !== 'did' || !('state' in entry)) return entry
      const same = its !== undefined && its === last
      last = its
      return same ? { kind: entry.kind, op: entry.op, what: entry.what } : entry
    })
    const { length: chars } = JSON.stringify(batch)
    const isFull = this.#entries + batch.length > MAX_ENTRIES || this.#chars + chars > MAX_CHARS
    // Its end always has room.
    if (isFull && batch[0]?.kind !== 'end') {
      const bounds = `${MAX_ENTRIES} entries or ${MAX_CHARS} characters`
      throw new ServerError('journal_full', `Cannot go on with call: it records over ${bounds}`)
    }
    return { entries: batch, notes: this.#notes.length, chars, version: last }
  }

  written({ entries, notes, chars, version }: Batch): void {
    this.#notes.splice(0, notes)
    this.#entries += entries.length
    this.#chars += chars
    this.#version = version
  }

  get hasNotes(): boolean {
    return this.#notes.length > 0
  }

  /** Resolves when the question that operation `op` asked is answered. */
  answer(op: number): Promise<RpcOutcome> {
    return this.#answerTo(op).promise
  }

  #answerTo(op: number): PromiseWithResolvers<RpcOutcome> {
    const answers = (this.#answers ??= new Map())
    const known = answers.get(op) ?? Promise.withResolvers<RpcOutcome>()
    answers.set(op, known)
    return known
  }
}

/** Thrown into a run that nobody waits for any more. */
export class Abandoned extends Error {
  constructor() {
    super('Cannot go on: this run of the call is over')
  }
}

/** What an operation came to, for its tool. An error is one with the same words. */
export function valueOf(known: Recorded | Result): JsonValue {
  if ('error' in known) throw new Error(known.error)
  return 'value' in known ? copyOf(known.value) : null
}

/** The state that an operation was told. */
export function stateOf(known: Recorded): SessionState {
  valueOf(known)
  return 'state' in known && known.state !== undefined ? known.state : {}
}

/** What `make` came to, as it is recorded. */
export async function resultOf(make: () => JsonValue | Promise<JsonValue>): Promise<Result> {
  try {
    return { value: copyOf(await make()) }
  } catch (error) {
    return { error: messageOf(error) }
  }
}

/** What is recorded stays as it was, whatever its tool makes of what it gave and was told. */
function copyOf(value: JsonValue): JsonValue {
  return typeof value === 'object' ? (JSON.parse(JSON.stringify(value)) as JsonValue) : value
}

function nameOf(entry: Recorded): string {
  if (entry.kind === 'did') return entry.what
  return 'method' in entry.message ? entry.message.method : ''
}

function withState(entry: Recorded, state: SessionState): Recorded {
  if (entry.kind !== 'did' || 'value' in entry || 'error' in entry) return entry
  return { state, ...entry }
}

function notDeterministic(why: string): ServerError {
  const words = 'Cannot go on with call: its tool did something else when it ran again'
  return new ServerError('call_not_deterministic', `${words}: ${why}`)
}
