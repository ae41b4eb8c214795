import type { RequestId } from '@modelcontextprotocol/server'
import { rpcErrorOf, ServerError } from '../errors.ts'
import { parseStreamId, type SessionId, type StreamId } from './ids.ts'
import { respond } from './message.ts'
import type { Entry, SessionStore } from './store.ts'

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

/** True if question `op` is asked there, and nobody has answered it. */
export function isOpenQuestion(entries: readonly Entry[], op: number): boolean {
  const asked = entries.some((one) => {
    return one.kind === 'message' && one.op === op && 'id' in one.message
  })
  return asked && !entries.some((one) => one.kind === 'answer' && one.op === op)
}

/**
 * Adds to the log of a call that has not ended, wherever it runs; its holder finds it there. Nothing
 * is added unless the log `wants` it. True if it was added.
 */
export async function addToCall(
  store: SessionStore,
  id: SessionId,
  stream: StreamId,
  entry: Entry,
  wants: (entries: readonly Entry[]) => boolean,
): Promise<boolean> {
  for (;;) {
    const log = await readLog(store, id, stream)
    if (log === undefined || !wants(log)) return false
    const append = [{ stream, at: log.length + 1, entries: [entry] }]
    const { kind } = await store.commit(id, { append })
    if (kind !== 'conflict') return kind === 'committed'
  }
}

/**
 * Makes `by` the holder of a call; one that was it before can write nothing any more. Answers the
 * call's log, or `undefined` if the call has ended, or if it is ended here for leading nowhere.
 */
export async function takeCall(
  store: SessionStore,
  id: SessionId,
  stream: StreamId,
  by: string,
): Promise<readonly Entry[] | undefined> {
  let log: readonly Entry[] = []
  const taken: Entry = { kind: 'taken', by }
  const added = await addToCall(store, id, stream, taken, (entries) => {
    log = entries
    return !isFruitless(entries)
  })
  if (added) return [...log, taken]
  if (isFruitless(log)) await addToCall(store, id, stream, interrupted(log), () => true)
  return undefined
}

/** The streams of the running calls that the client knows as `requestId`. */
export async function findCalls(
  store: SessionStore,
  id: SessionId,
  requestId: unknown,
): Promise<readonly StreamId[]> {
  const found: StreamId[] = []
  for (const stream of await store.running(id)) {
    const log = await readLog(store, id, stream)
    if (log !== undefined && requestIdOf(log) === requestId) found.push(stream)
  }
  return found
}

/** The log of a call that has not ended. */
async function readLog(
  store: SessionStore,
  id: SessionId,
  stream: StreamId,
): Promise<readonly Entry[] | undefined> {
  const stored = await store.entries(id, stream, 0)
  const isCall = stored?.entries[0]?.kind === 'begin'
  return isCall && stored.entries.at(-1)?.kind !== 'end' ? stored.entries : undefined
}

function isFruitless(log: readonly Entry[]): boolean {
  return (
    log.length > MAX_FRUITLESS_RUNS &&
    log.slice(-MAX_FRUITLESS_RUNS).every(({ kind }) => kind === 'taken')
  )
}

function interrupted(log: readonly Entry[]): Entry {
  const words = 'Cannot finish call: each process that ran it ended before it came any further'
  const error = rpcErrorOf(new ServerError('call_interrupted', words))
  return { kind: 'end', message: respond(requestIdOf(log) ?? 0, { error }) }
}

function requestIdOf([first]: readonly Entry[]): RequestId | undefined {
  return first?.kind === 'begin' ? first.request.id : undefined
}
