import {
  InMemoryServerEventBus,
  UriTemplate,
  type JSONRPCRequest,
  type ServerEventBus,
} from '@modelcontextprotocol/server'
import * as z from 'zod'
import type { Principal, SessionId } from '../session/ids.ts'
import type { Relay } from '../session/peers.ts'
import type { SessionHolder } from '../session/router.ts'
import type { Pack } from '../session/tool.ts'

/** Who listens here to changes of sessions, and what there is to hear. */
export class Subscriptions {
  readonly bus: ServerEventBus
  readonly #holder: SessionHolder
  readonly #templates: readonly UriTemplate[]
  /** The URIs that are watched, each once. */
  readonly #watches = new Map<string, UriWatch>()

  constructor(holder: SessionHolder, pack: Pack, relay: Relay | undefined) {
    this.#holder = holder
    this.bus = relay === undefined ? new InMemoryServerEventBus() : relayed(relay)
    this.#templates = (pack.resources ?? []).map(({ template }) => new UriTemplate(template))
  }

  /**
   * A `subscriptions/listen` request for what its caller may hear, until `signal`: of sessions only
   * the caller's own. Of another's it is told as little as of one that never was.
   */
  async narrowed(
    request: JSONRPCRequest,
    principal: Principal,
    signal: AbortSignal,
  ): Promise<JSONRPCRequest> {
    const { success, data } = listenParams.safeParse(request.params)
    if (!success) return request
    const { resourceSubscriptions: uris = [], ...lists } = data.notifications
    const own: string[] = []
    for (const uri of new Set(uris.slice(0, MAX_URIS))) {
      if (await this.#watch(uri, principal, signal)) own.push(uri)
    }
    const notifications = { ...lists, ...(own.length > 0 && { resourceSubscriptions: own }) }
    return { ...request, params: { ...request.params, notifications } }
  }

  /** The session that a resource shows. */
  sessionIn(uri: string): SessionId | undefined {
    for (const template of this.#templates) {
      const id = template.match(uri)?.['session_id']
      if (typeof id === 'string') return id as SessionId
    }
    return undefined
  }

  async #watch(uri: string, principal: Principal, signal: AbortSignal): Promise<boolean> {
    const id = this.sessionIn(uri)
    if (id === undefined || (await this.#holder.stateOf(id, principal)) === undefined) return false
    const known = this.#watches.get(uri)
    const watch = known ?? this.#begin(uri, id, principal)
    watch.users++
    const leave = (): void => {
      if (--watch.users > 0) return
      if (this.#watches.get(uri) === watch) this.#watches.delete(uri)
      watch.stop.abort()
    }
    signal.addEventListener('abort', leave, { once: true })
    await watch.ready
    return true
  }

  #begin(uri: string, id: SessionId, principal: Principal): UriWatch {
    const stop = new AbortController()
    const changed = (): void => this.bus.publish({ kind: 'resource_updated', uri })
    const ready = this.#holder.watch(id, { principal, signal: stop.signal, changed })
    const watch = { users: 0, stop, ready }
    this.#watches.set(uri, watch)
    // Who listens next tries anew.
    ready.catch(() => this.#watches.get(uri) === watch && this.#watches.delete(uri))
    return watch
  }
}

interface UriWatch {
  users: number
  readonly stop: AbortController
  /** Resolves when there is nothing any more that would not be heard. */
  readonly ready: Promise<void>
}

/** Lists change for everybody, sessions for those who watch them. */
function relayed(relay: Relay): ServerEventBus {
  const here = new InMemoryServerEventBus()
  relay.hear((word) => {
    const kind = LISTS.find((list) => list === word)
    if (kind !== undefined) here.publish({ kind })
  })
  return {
    subscribe: (hear) => here.subscribe(hear),
    publish: (event) => {
      if (event.kind === 'resource_updated') here.publish(event)
      else relay.tell(event.kind)
    },
  }
}

const LISTS = ['tools_list_changed', 'prompts_list_changed', 'resources_list_changed'] as const
const MAX_URIS = 64

const listenParams = z.looseObject({
  notifications: z.looseObject({ resourceSubscriptions: z.array(z.string()).optional() }),
})
