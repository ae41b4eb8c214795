import { readEvents, type Fetch } from '../support/mcp.ts'
import { ask, replyTo } from '../support/stateless.ts'
import type { Send } from './sockets.ts'

const META = 'io.modelcontextprotocol'

export const summaryUri = (session: string): string => `resource://session/${session}/summary`

/** All that a session remembers, and who says so. */
export async function summaryOf(fetch: Fetch, session: string): Promise<Record<string, unknown>> {
  const reply = await replyTo(await fetch(ask('resources/read', { uri: summaryUri(session) })))
  const [content] = (reply.result?.['contents'] ?? []) as { text: string }[]
  if (content === undefined) throw new Error(`No summary: ${JSON.stringify(reply)}`)
  return JSON.parse(content.text) as Record<string, unknown>
}

export interface Ear {
  /** The URIs that are listened to, as the server has acknowledged them. */
  readonly acknowledged: readonly string[]
  /** Resolves with the URI of the next change that is told. */
  readonly next: () => Promise<string>
  readonly hangUp: () => Promise<void>
}

/** Listens to changes of resources until it hangs up. */
export async function listenTo(fetch: Send, uris: readonly string[]): Promise<Ear> {
  const stop = new AbortController()
  const notifications = { resourceSubscriptions: uris }
  const asked = ask('subscriptions/listen', { notifications }, { id: 'listening' })
  const response = await fetch(asked, stop.signal)
  const events = readEvents(response)
  const heard = async (): Promise<Heard> => {
    const event = await events.next()
    if (event.done === true) throw new Error('Cannot listen: the stream has ended')
    return JSON.parse(event.value.data) as Heard
  }
  const { method, params } = await heard()
  if (method !== 'notifications/subscriptions/acknowledged') {
    throw new Error(`Cannot listen: ${response.status}, ${String(method)}`)
  }
  return {
    acknowledged: params.notifications?.resourceSubscriptions ?? [],
    async next() {
      const told = await heard()
      // Its result, after which it ends.
      if (told.method === undefined) throw new Error('Cannot listen: the stream has ended')
      const isOurs = told.params._meta?.[`${META}/subscriptionId`] === 'listening'
      if (told.method === 'notifications/resources/updated' && isOurs) return told.params.uri ?? ''
      throw new Error(`Not a change: ${JSON.stringify(told)}`)
    },
    async hangUp() {
      stop.abort()
      await events.return(undefined).catch(() => undefined)
    },
  }
}

interface Heard {
  readonly method?: string
  readonly params: {
    readonly uri?: string
    readonly notifications?: { readonly resourceSubscriptions?: readonly string[] }
    readonly _meta?: Record<string, unknown>
  }
}
