import type { JSONRPCMessage } from '@modelcontextprotocol/server'
import { sessionNotFound } from '../errors.ts'
import { COMMITTED, type Meter } from '../meter.ts'
import type { Identity } from './identity.ts'
import type { SessionId, StreamId } from './ids.ts'
import type {
  Append,
  Commit,
  CommitOutcome,
  Entry,
  Loaded,
  SessionRecord,
  SessionStore,
  StreamEntries,
} from './store.ts'
import { nextPlace } from './streams.ts'

export interface LiveSessionOptions {
  readonly id: SessionId
  readonly store: SessionStore
  /** The URIs under which the session's state is shown; subscribers are told of each change. */
  readonly shownAt: readonly string[]
  /** Called after each commit that appended to `stream`: who follows it may look. */
  readonly grown: (stream: StreamId) => void
  readonly meter?: Meter | undefined
  /** Called after each commit that changed the state. */
  readonly changed: (version: number) => void
}

/** A session as one holder sees it: the record it last read, and the way to commit to it. */
export class LiveSession {
  readonly #options: LiveSessionOptions
  #record: SessionRecord | undefined
  #turn: Promise<void> = Promise.resolve()
  // Made for those who wait.
  #ended: AbortController | undefined
  /** The place of the standalone stream's next entry; read when it is first written to. */
  #nextStandalone: number | undefined

  constructor(options: LiveSessionOptions) {
    this.#options = options
  }

  get record(): SessionRecord {
    if (this.#record === undefined) throw sessionNotFound()
    return this.#record
  }

  /** Aborted when the session ends here. */
  get ended(): AbortSignal {
    return (this.#ended ??= new AbortController()).signal
  }

  end(): void {
    this.#ended?.abort(sessionNotFound())
  }

  async load(call?: Identity): Promise<Loaded | undefined> {
    const { key, attempt } = call ?? {}
    const loaded = await this.#options.store.load(this.#options.id, { key, attempt })
    if (loaded !== undefined) this.#record = loaded.record
    return loaded
  }

  entries(stream: StreamId, after: number): Promise<StreamEntries | undefined> {
    return this.#options.store.entries(this.#options.id, stream, after)
  }

  async begin(begin: NonNullable<Commit['begin']>): Promise<void> {
    // A conflict means that this very request has begun the session before.
    const { store, id, meter } = this.#options
    const { kind } = await store.commit(id, { begin })
    if (kind === 'committed') meter?.(COMMITTED)
    await this.load()
  }

  async commit(commit: Commit): Promise<CommitOutcome> {
    const { store, id, grown, changed, meter } = this.#options
    const append = [...(commit.append ?? []), ...(await this.#toSubscribers(commit))]
    const whole = { ...commit, ...(append.length > 0 && { append }) }
    const outcome = await store.commit(id, whole)
    if (outcome.kind !== 'committed') {
      this.#nextStandalone = undefined
      return outcome
    }
    meter?.(COMMITTED)
    const { record } = this
    // A commit without a change says what version there is, but not what is in it.
    const { change, settings = record.settings } = commit
    const next = change && { version: outcome.version, state: change.state }
    this.#record = { ...record, ...next, settings }
    // Another holder has changed the session, and perhaps what its client wants to hear.
    if (change === undefined && outcome.version !== record.version) {
      await this.load().catch(() => undefined)
    }
    for (const { stream } of append) grown(stream)
    if (change !== undefined && change.state !== record.state) changed(outcome.version)
    return outcome
  }

  /** Waits until no other update is open in this holder. Call what it answers to let the next in. */
  async turn(): Promise<() => void> {
    const before = this.#turn
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#turn = before.then(() => promise)
    await before
    return resolve
  }

  /** Sends a message that belongs to no call. */
  async say(message: JSONRPCMessage): Promise<void> {
    for (let kind: CommitOutcome['kind'] = 'conflict'; kind === 'conflict';) {
      const append = await this.#toStandalone([{ kind: 'message', message }])
      kind = (await this.commit({ append: [append] })).kind
    }
  }

  async #toSubscribers({ change }: Commit): Promise<Append[]> {
    if (change === undefined || change.state === this.record.state) return []
    const { subscriptions } = this.record.settings
    const uris = this.#options.shownAt.filter((uri) => subscriptions.includes(uri))
    if (uris.length === 0) return []
    return [
      await this.#toStandalone(uris.map((uri) => ({ kind: 'message', message: updated(uri) }))),
    ]
  }

  async #toStandalone(entries: readonly Entry[]): Promise<Append> {
    const { standalone: stream } = this.record
    const { store, id } = this.#options
    const at = this.#nextStandalone ?? (await nextPlace(store, id, stream))
    this.#nextStandalone = at + entries.length
    return { stream, at, entries }
  }
}

function updated(uri: string): JSONRPCMessage {
  return { jsonrpc: '2.0', method: 'notifications/resources/updated', params: { uri } }
}
