import {
  InMemoryServerEventBus,
  UriTemplate,
  type JSONRPCRequest,
  type ServerEventBus,
} from '@modelcontextprotocol/server'
import * as z from 'zod'
import { ServerError } from '../errors.ts'
import type { Limits } from '../limits.ts'
import type { Principal, SessionId } from '../session/ids.ts'
import type { Relay } from '../session/peers.ts'
import type { SessionHolder } from '../session/router.ts'
import type { Pack } from '../session/tool.ts'

/** What one listener hears, and until when. */
export interface Listening {
  readonly principal: Principal
  readonly bus: ServerEventBus
  readonly signal: AbortSignal
  /** Called when there is something that it can't hear any more. */
  readonly deaf: () => void
}

interface SubscriptionsOptions {
  readonly holder: SessionHolder
  readonly pack: Pack
  /** Unset: no other process serves this server's clients. */
  readonly relay?: Relay | undefined
  readonly limits: Pick<Limits, 'maxListeners'>
}

/** What there is to hear: lists that change for everybody, and one's own sessions. */
export class Subscriptions {
  /** Where changed lists are told. */
  readonly lists: ServerEventBus
  readonly #holder: SessionHolder
  readonly #templates: readonly UriTemplate[]
  readonly #maxListeners: number
  #listeners = 0

  constructor({ holder, pack, relay, limits }: SubscriptionsOptions) {
    this.#holder = holder
    this.#maxListeners = limits.maxListeners
    this.lists = relay === undefined ? new InMemoryServerEventBus() : relayed(relay)
    this.#templates = (pack.resources ?? []).map(({ template }) => new UriTemplate(template))
  }

  /**
   * Has a listener hear what it asks for, and answers its request for what it may: of sessions only
   * its own. Of another's it is told as little as of one that never was.
   */
  async begin(request: JSONRPCRequest, listening: Listening): Promise<JSONRPCRequest> {
    const { bus, signal } = listening
    if (this.#listeners >= this.#maxListeners) {
      throw new ServerError('too_many_streams', 'Cannot listen: too many do')
    }
    this.#listeners++
    const unsubscribe = this.lists.subscribe((event) => bus.publish(event))
    const leave = (): void => {
      this.#listeners--
      unsubscribe()
    }
    signal.addEventListener('abort', leave, { once: true })
    const { success, data } = listenParams.safeParse(request.params)
    if (!success) return request
    const { resourceSubscriptions: uris = [], ...lists } = data.notifications
    const own: string[] = []
    for (const uri of new Set(uris.slice(0, MAX_URIS))) {
      if (await this.#watch(uri, listening)) own.push(uri)
    }
    const notifications = { ...lists, ...(own.length > 0 && { resourceSubscriptions: own }) }
    return { ...request, params: { ...request.params, notifications } }
  }

  /** The session that a resource shows. */
  sessionIn(uri: string): SessionId | undefined {
    // The SDK throws at what is too long to be compared; ours are far shorter.
    if (uri.length > MAX_URI_LENGTH) return undefined
    for (const template of this.#templates) {
      const id = template.match(uri)?.['session_id']
      if (typeof id === 'string') return id as SessionId
    }
    return undefined
  }

  async #watch(uri: string, { principal, bus, signal, deaf }: Listening): Promise<boolean> {
    const id = this.sessionIn(uri)
    if (id === undefined || (await this.#holder.stateOf(id, principal)) === undefined) return false
    const changed = (): void => bus.publish({ kind: 'resource_updated', uri })
    await this.#holder.watch(id, { principal, signal, changed, lost: deaf })
    return true
  }
}

/** Lists that change for all processes, by word of mouth. */
function relayed(relay: Relay): ServerEventBus {
  const here = new InMemoryServerEventBus()
  relay.hear((word) => {
    const kind = LISTS.find((list) => list === word)
    if (kind !== undefined) here.publish({ kind })
  })
  return {
    subscribe: (hear) => here.subscribe(hear),
    publish: ({ kind }) => relay.tell(kind),
  }
}

const LISTS = ['tools_list_changed', 'prompts_list_changed', 'resources_list_changed'] as const
const MAX_URIS = 64
const MAX_URI_LENGTH = 2048

const listenParams = z.looseObject({
  notifications: z.looseObject({ resourceSubscriptions: z.array(z.string()).optional() }),
})
