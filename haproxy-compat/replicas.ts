import { storeAway } from '../mcp/errors.ts'
import type { SessionId } from '../mcp/session/ids.ts'
import type { SessionStore } from '../mcp/session/store.ts'
import { createDeadline } from './deadline.ts'
import { COMMAND_MS, type Line } from './redis-connection.ts'
import { sessionKey } from './redis-scripts.ts'

export interface ReplicaOptions {
  /** The line on which a key is written. */
  readonly lineOf: (key: string) => Promise<Line>
  /** How many replicas must have a commit before it is answered. */
  readonly replicas: number
  /** How long they have. */
  readonly withinMs: number
}

/**
 * A store that answers a commit once its replicas have it too; until then, and if they do not get it
 * in time, it may be called again with the same arguments. What it finds recorded counts as a commit.
 */
export function onReplicas(store: SessionStore, options: ReplicaOptions): SessionStore {
  const { lineOf, replicas } = options
  const ask = createAsker(options)

  async function settled<T>(id: SessionId, act: () => Promise<T>, isKept: (outcome: T) => boolean) {
    const key = sessionKey(id)
    const line = await lineOf(key).catch(away)
    const outcome = await act()
    if (!isKept(outcome)) return outcome
    const count = await ask(line).catch(away)
    // On another line Redis would answer for what was written there, which is nothing.
    const isSame = (await lineOf(key).catch(away)) === line
    if (isSame && count >= replicas) return outcome
    const why = isSame ? `${count} of ${replicas} replicas have it` : 'the connection was lost'
    throw away(new Error(`Cannot tell that a commit is kept: ${why}`))
  }

  return {
    ...store,
    load: (id, asked) =>
      settled(
        id,
        () => store.load(id, asked),
        (loaded) => loaded?.reply !== undefined,
      ),
    commit: (id, commit) =>
      settled(
        id,
        () => store.commit(id, commit),
        ({ kind }) => kind === 'committed' || kind === 'answered',
      ),
    drop: (id) =>
      settled(
        id,
        () => store.drop(id),
        () => true,
      ),
  }
}

function away(error: unknown): never {
  throw storeAway(error)
}

/**
 * Asks how many replicas have all that was written on a line so far. A line stands still while Redis
 * waits for them, so one question is asked at a time, for all who came in the meantime.
 */
function createAsker({ replicas, withinMs }: ReplicaOptions) {
  const turns = new WeakMap<Line, { now: Promise<unknown>; next?: Promise<number> | undefined }>()
  const command = ['WAIT', String(replicas), String(withinMs)]
  // A Redis that hangs does not mind how long they have.
  const within = createDeadline(withinMs + COMMAND_MS)

  return (line: Line): Promise<number> => {
    const turn = turns.get(line) ?? { now: Promise.resolve() }
    turns.set(line, turn)
    turn.next ??= turn.now.then(() => {
      turn.next = undefined
      const answer = within(line.send(command)).then(Number)
      turn.now = answer.catch(() => undefined)
      return answer
    })
    return turn.next
  }
}
