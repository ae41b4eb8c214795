import type { JSONRPCRequest } from '@modelcontextprotocol/client'
import type { ClientEvent } from './events.ts'
import { ClientError } from './retry.ts'

/** What of a JSON-RPC message matters here; the SDK has checked, or will check, the rest. */
export interface Message {
  readonly id?: string | number
  readonly method?: string
  readonly params?: JSONRPCRequest['params'] | undefined
  readonly result?: { readonly structuredContent?: { readonly keys_copied?: unknown } }
  readonly error?: { readonly message: string }
}

/** Sends `message` in the named session, or in none; hands back the reply and its session. */
export type Send = (
  message: Message,
  session: string | undefined,
) => Promise<{ reply: Message | undefined; session: string | undefined }>

export const KEY = 'dev.holdfast/idempotency-key'

/** The session the client is in: its id, and what it takes to begin another one in its place. */
export class Session {
  readonly #onEvent: (event: ClientEvent) => void
  #id: string | undefined
  #initialize: Message | undefined
  readonly #settings = new Map<string, Message>()
  #replacing: Promise<void> | undefined

  constructor(id: string | undefined, onEvent: (event: ClientEvent) => void) {
    this.#id = id
    this.#onEvent = onEvent
  }

  get id(): string | undefined {
    return this.#id
  }

  /** Learns from what was sent, and answered with success. */
  note({ method = '', params }: Message, response: Response): void {
    const uri = `subscription ${String(params?.['uri'])}`
    switch (method) {
      case 'initialize':
        this.#id = response.headers.get('mcp-session-id') ?? undefined
        this.#initialize = { method, params }
        break
      case 'logging/setLevel':
        this.#settings.set(method, { method, params })
        break
      case 'resources/subscribe':
        this.#settings.set(uri, { method, params })
        break
      case 'resources/unsubscribe':
        this.#settings.delete(uri)
    }
  }

  /** The client has ended it: there is nothing to carry on. */
  end(): void {
    this.#initialize = undefined
  }

  /** True if session `id` can be replaced, should the server not know it any more. */
  isReplaceable(id: string | undefined): id is string {
    return id !== undefined && this.#initialize !== undefined
  }

  /** Begins a session in place of `lost`, once for all who ask. Throws `session_lost`. */
  replace(lost: string, send: Send): Promise<void> {
    if (this.#id !== lost) return Promise.resolve()
    this.#replacing ??= this.#replace(lost, send).finally(() => (this.#replacing = undefined))
    return this.#replacing
  }

  async #replace(lost: string, send: Send): Promise<void> {
    const opened = await send({ ...this.#initialize, id: 'initialize' }, undefined)
    if (opened.reply?.result === undefined) {
      const why = opened.reply?.error?.message ?? 'initialize was refused'
      throw new ClientError('session_lost', `Cannot replace lost session: ${why}`)
    }
    const { session } = opened
    await send({ method: 'notifications/initialized' }, session)
    const resumed = await send(resumeSession(lost), session)
    await Promise.all([...this.#settings].map(([id, setting]) => send({ ...setting, id }, session)))
    this.#id = session
    const copied = resumed.reply?.result?.structuredContent?.keys_copied
    const keysCopied = typeof copied === 'number' ? copied : undefined
    const ids = { old: lost.slice(0, 8), new: String(session).slice(0, 8) }
    this.#onEvent({ event: 'session_replaced', ...ids, keysCopied })
  }
}

function resumeSession(lost: string): Message {
  const call = { name: 'resume_session', arguments: { old_session_id: lost } }
  const _meta = { [KEY]: crypto.randomUUID() }
  return { id: 'resume_session', method: 'tools/call', params: { ...call, _meta } }
}
