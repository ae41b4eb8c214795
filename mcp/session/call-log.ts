import type { RequestId } from '@modelcontextprotocol/server'
import { rpcErrorOf, ServerError } from '../errors.ts'
import { parseStreamId, type SessionId, type StreamId } from './ids.ts'
import { respond } from './message.ts'
import type { RunningCall } from './peers.ts'
import type { Entry, RpcOutcome, SessionStore } from './store.ts'

// A call whose holders die one after the other, before it came any further, is what they die of.
const MAX_FRUITLESS_RUNS = 10

/** A question's JSON-RPC id says where its answer belongs, to whichever process that is sent. */
export function questionId(stream: StreamId, op: number): string {
  return `${stream}/${op}`
}

export function parseQuestionId(id: unknown): { stream: StreamId; op: number } | undefined {
  const [, text, op] = typeof id === 'string' ? (/^([^/]*)\/([1-9]\d{0,8})$/.exec(id) ?? []) : []
  const stream = parseStreamId(text ?? '')
  return stream && { stream, op: Number(op) }
}

/** Answers question `op`, if it was asked and nobody has answered it. True if that is so. */
export function answerQuestion(
  store: SessionStore,
  call: RunningCall,
  op: number,
  outcome: RpcOutcome,
): Promise<boolean> {
  return addToCall(store, call, { kind: 'answer', op, outcome }, (log) => {
    const asked = log.some((one) => {
      return one.kind === 'message' && one.op === op && 'id' in one.message
    })
    return asked && !log.some((one) => one.kind === 'answer' && one.op === op)
  })
}

/** True if the call is cancelled now, and was not before. */
export function cancelCall(store: SessionStore, call: RunningCall): Promise<boolean> {
  const entry = { kind: 'cancel' } as const
  return addToCall(store, call, entry, (log) => log.every(({ kind }) => kind !== 'cancel'))
}

/**
 * Adds to the log of a call that has not ended, wherever it runs; its holder finds it there. Nothing
 * is added unless the log `wants` it. True if it was added.
 */
async function addToCall(
  store: SessionStore,
  { id, stream }: RunningCall,
  entry: Entry,
  wants: (entries: readonly Entry[]) => boolean,
): Promise<boolean> {
  for (;;) {
    const log = await readLog(store, { id, stream })
    if (log === undefined || !wants(log)) return false
    const append = [{ stream, at: log.length + 1, entries: [entry] }]
    const { kind } = await store.commit(id, { append })
    if (kind !== 'conflict') return kind === 'committed'
  }
}

export type Taken =
  | { readonly kind: 'taken'; readonly log: readonly Entry[] }
  /** There is nothing to go on with. */
  | { readonly kind: 'over' }
  /** Another was quicker. */
  | { readonly kind: 'elsewhere' }

/** Makes `by` the holder of a call; one that was it before can write nothing any more. */
export async function takeCall(
  store: SessionStore,
  call: RunningCall,
  { by, now }: { readonly by: string; readonly now: number },
): Promise<Taken> {
  const before = await readLog(store, call)
  if (before === undefined) return { kind: 'over' }
  if (isFruitless(before, now)) {
    await addToCall(store, call, interrupted(before), (log) => isFruitless(log, now))
    return { kind: 'over' }
  }
  let log = before
  const taken: Entry = { kind: 'taken', by }
  const added = await addToCall(store, call, taken, (found) => {
    log = found
    return found.slice(before.length).every(({ kind }) => kind !== 'taken')
  })
  return added ? { kind: 'taken', log: [...log, taken] } : { kind: 'elsewhere' }
}

/** The streams of the running calls that the client knows as `requestId`. */
export async function findCalls(
  store: SessionStore,
  id: SessionId,
  requestId: unknown,
): Promise<readonly StreamId[]> {
  const found: StreamId[] = []
  for (const stream of await store.running(id)) {
    const log = await readLog(store, { id, stream })
    if (log !== undefined && requestIdOf(log) === requestId) found.push(stream)
  }
  return found
}

/** The log of a call that has not ended. */
async function readLog(
  store: SessionStore,
  { id, stream }: RunningCall,
): Promise<readonly Entry[] | undefined> {
  const stored = await store.entries(id, stream, 0)
  const isCall = stored?.entries[0]?.kind === 'begin'
  return isCall && stored.entries.at(-1)?.kind !== 'end' ? stored.entries : undefined
}

/** True if holders come and go while the call, which waits for nothing, comes no further. */
function isFruitless(log: readonly Entry[], now: number): boolean {
  const at = log.findLastIndex(({ kind }) => kind !== 'taken')
  return log.length - 1 - at >= MAX_FRUITLESS_RUNS && waitsUntil(log[at]) <= now
}

function waitsUntil(last: Entry | undefined): number {
  if (last?.kind === 'message') return last.until ?? 0
  const sleeps = last?.kind === 'did' && last.what === 'sleep' && 'value' in last
  return sleeps ? Number(last.value) : 0
}

function interrupted(log: readonly Entry[]): Entry {
  const words = 'Cannot finish call: each process that ran it ended before it came any further'
  const error = rpcErrorOf(new ServerError('call_interrupted', words))
  return { kind: 'end', message: respond(requestIdOf(log) ?? 0, { error }) }
}

function requestIdOf([first]: readonly Entry[]): RequestId | undefined {
  return first?.kind === 'begin' ? first.request.id : undefined
}
