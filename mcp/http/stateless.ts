import {
  createMcpHandler,
  type JSONRPCMessage,
  type JSONRPCRequest,
  type McpHttpHandler,
  type McpServer,
} from '@modelcontextprotocol/server'
import * as z from 'zod'
import { HANDLE_HEADER, withHandles } from '../session/handles.ts'
import type { SessionId } from '../session/ids.ts'
import { parseMessage, respond } from '../session/message.ts'
import type { Relay } from '../session/peers.ts'
import { REVISIONS, STATELESS_REVISION } from '../session/revisions.ts'
import type { Post } from '../session/router.ts'
import { createServer } from '../session/server.ts'
import type { JsonObject } from '../session/state.ts'
import { StatelessHost, type Caller, type StatelessHostOptions } from '../session/stateless-host.ts'
import type { Pack } from '../session/tool.ts'
import { json, whenOver } from './responses.ts'
import { Subscriptions } from './subscriptions.ts'

export interface StatelessOptions extends StatelessHostOptions {
  readonly keepAliveMs: number
  /** Whether clients of the revisions with sessions are served here as well, without. */
  readonly isForAll: boolean
  /** Unset: no other process serves this server's clients. */
  readonly relay?: Relay | undefined
  /** Hands a request to the holder of the session that it names, if that is elsewhere. */
  readonly forward?: (id: SessionId, request: Request, post: Post) => Promise<Response> | undefined
}

/**
 * Serves requests that have no session of their own: those of the stateless revision, and all of them
 * where sessions are off. The SDK does the protocol. Ours is where the state is.
 */
export class StatelessServer {
  readonly #pack: Pack
  readonly #host: StatelessHost
  readonly #handler: McpHttpHandler
  readonly #subscriptions: Subscriptions
  readonly #forward: StatelessOptions['forward']
  /** SDK servers that wait for their next request: to make one takes longer than to use it. */
  readonly #idle: McpServer[] = []
  readonly #inUse = new WeakMap<Request, McpServer>()

  constructor(options: StatelessOptions) {
    const { pack, holder, ttlMs, keepAliveMs, log, isForAll, relay } = options
    this.#pack = withHandles(pack, ttlMs)
    this.#host = new StatelessHost(options)
    this.#forward = options.forward
    this.#subscriptions = new Subscriptions(holder, pack, relay)
    this.#handler = createMcpHandler(
      ({ era, requestInfo }) =>
        era === 'modern' ? this.#take(requestInfo) : this.#create(REVISIONS),
      {
        legacy: isForAll ? 'stateless' : 'reject',
        bus: this.#subscriptions.bus,
        keepAliveMs,
        onerror: ({ message }) => log({ event: 'request_refused', message }),
      },
    )
  }

  async serve(request: Request, post: Post): Promise<Response> {
    const id = this.#forward && this.#sessionOf(request, post)
    const elsewhere = id && this.#forward?.(id, request, post)
    if (elsewhere) return elsewhere
    const { message } = parseMessage(post.body)
    if (!('method' in message && 'id' in message)) return this.#fetch(request, message)
    const caller: Caller = { post, params: (message.params ?? {}) as JsonObject }
    if (message.method === 'subscriptions/listen') return this.#listen(request, message, caller)
    // What the SDK's own handlers ask, they check.
    const isTool = this.#pack.tools.some(({ name }) => name === caller.params['name'])
    const isOurs = message.method === 'tools/call' && isTool
    if (isOurs && !(await this.#host.goOn(caller))) {
      return json(JSON.stringify(respond(message.id, BAD_STATE)), 200)
    }
    const response = await this.#fetch(request, message, caller)
    const { refusal } = caller
    return refusal === undefined ? response : json(refusal.body, refusal.status)
  }

  async #fetch(request: Request, parsedBody: JSONRPCMessage, caller?: Caller): Promise<Response> {
    const authInfo = { token: '', clientId: '', scopes: [], extra: { caller } }
    const response = await this.#handler.fetch(request, { parsedBody, authInfo })
    this.#giveBack(request, response)
    return response
  }

  async #listen(request: Request, message: JSONRPCRequest, { post }: Caller): Promise<Response> {
    const stop = new AbortController()
    const over = (): void => stop.abort()
    try {
      const own = await this.#subscriptions.narrowed(message, post.principal, stop.signal)
      return whenOver(await this.#fetch(request, own), over)
    } catch (error) {
      over()
      throw error
    }
  }

  /**
   * The session that the request names: by its headers, which whoever serves it compares with what its
   * body says. Clients of earlier revisions send none.
   */
  #sessionOf({ headers }: Request, { body }: Post): SessionId | undefined {
    if (headers.has('mcp-method')) {
      const named = headers.get(HANDLE_HEADER) as SessionId | null
      return named ?? this.#subscriptions.sessionIn(headers.get('mcp-name') ?? '')
    }
    const { success, data } = naming.safeParse(parseMessage(body).message)
    if (!success) return undefined
    const { arguments: input, uri = '' } = data.params
    return (input?.session as SessionId | undefined) ?? this.#subscriptions.sessionIn(uri)
  }

  /** An SDK server for `request`. */
  #take(request: Request | undefined): McpServer {
    const server = this.#idle.pop() ?? this.#create([STATELESS_REVISION])
    if (request !== undefined) this.#inUse.set(request, server)
    return server
  }

  /** Only one whose tool has ended can't say anything to the next client. */
  #giveBack(request: Request, { headers }: Response): void {
    const server = this.#inUse.get(request)
    const hasEnded = headers.get('content-type') === 'application/json'
    if (server === undefined || !hasEnded || server.server.transport !== undefined) return
    if (this.#idle.length < MAX_IDLE) this.#idle.push(server)
  }

  #create(revisions: readonly string[]): McpServer {
    return createServer(this.#pack, this.#host, { revisions, notifier: this.#handler.notify })
  }
}

const MAX_IDLE = 64
const naming = z.object({
  params: z.object({
    arguments: z.object({ session: z.string().optional() }).optional(),
    uri: z.string().optional(),
  }),
})
const BAD_STATE = {
  error: {
    code: -32602,
    message: 'Invalid or expired requestState',
    data: { reason: 'invalid_request_state' },
  },
}
