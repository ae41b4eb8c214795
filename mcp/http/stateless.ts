import {
  createMcpHandler,
  InMemoryServerEventBus,
  isInputRequiredResult,
  PROTOCOL_VERSION_META_KEY,
  SERVER_INFO_META_KEY,
  type AuthInfo,
  type JSONRPCMessage,
  type JSONRPCRequest,
  type McpHttpHandler,
  type McpServer,
  type RequestId,
  type ServerEventBus,
} from '@modelcontextprotocol/server'
import * as z from 'zod'
import { knownError, rpcErrorOf } from '../errors.ts'
import { HANDLE_HEADER, hasPlainHeaders, withHandles } from '../session/handles.ts'
import type { SessionId } from '../session/ids.ts'
import { outcomeOf, parseMessage, respond } from '../session/message.ts'
import type { Limits } from '../limits.ts'
import { unmetered } from '../meter.ts'
import { findOwnCall, outcomeOfCall, type OwnCall } from '../session/own-tools.ts'
import type { Relay } from '../session/peers.ts'
import { REVISIONS, STATELESS_REVISION } from '../session/revisions.ts'
import type { Post } from '../session/router.ts'
import { createServer, serverInfoOf } from '../session/server.ts'
import type { JsonObject } from '../session/state.ts'
import {
  envelopeOf,
  StatelessHost,
  type Asked,
  type Caller,
  type StatelessHostOptions,
} from '../session/stateless-host.ts'
import type { RpcOutcome } from '../session/store.ts'
import type { Pack, Tool } from '../session/tool.ts'
import { DirectAnswer } from './answer.ts'
import { bounded, json, refused, safe, whenOver } from './responses.ts'
import { Subscriptions } from './subscriptions.ts'

export interface StatelessOptions extends StatelessHostOptions {
  readonly keepAliveMs: number
  readonly limits: Limits
  /** Whether clients of the revisions with sessions are served here as well, without. */
  readonly isForAll: boolean
  /** Unset: no other process serves this server's clients. */
  readonly relay?: Relay | undefined
  /** Whether a router in front asks which sessions are there; it keeps the answer from clients. */
  readonly tellsHeld?: boolean
  /** Hands a request to the holder of the session that it names, if that is elsewhere. */
  readonly forward?: (id: SessionId, request: Request, post: Post) => Promise<Response> | undefined
}

const HELD_HEADER = 'holdfast-held'

/**
 * Serves requests that have no session of their own: those of the stateless revision, and all of them
 * where sessions are off. The SDK does the protocol. Ours is where the state is.
 */
export class StatelessServer {
  readonly #options: StatelessOptions
  readonly #pack: Pack
  readonly #host: StatelessHost
  readonly #handler: McpHttpHandler
  readonly #subscriptions: Subscriptions
  readonly #forward: StatelessOptions['forward']
  /** Each ends the stream of one listener. */
  readonly #listening = new Set<() => void>()
  /** What this revision has in each result. */
  readonly #complete: JsonObject
  readonly #tools: ReadonlyMap<string, { readonly isPlain: () => boolean }>

  constructor(options: StatelessOptions) {
    const { pack, ttlMs } = options
    this.#options = options
    this.#pack = withHandles(pack, ttlMs)
    this.#complete = {
      resultType: 'complete',
      _meta: { [SERVER_INFO_META_KEY]: serverInfoOf(pack) },
    }
    // What a server of somebody else's speaks, the SDK's handler finds out.
    const plain = pack.server === undefined ? lazily : () => () => false
    this.#tools = new Map(this.#pack.tools.map((tool) => [tool.name, { isPlain: plain(tool) }]))
    this.#host = new StatelessHost(options)
    this.#forward = options.forward
    this.#subscriptions = new Subscriptions(options)
    this.#handler = this.#createHandler(this.#subscriptions.lists)
  }

  async serve(request: Request, post: Post): Promise<Response> {
    const id = this.#forward && this.#sessionOf(request, post)
    const elsewhere = id && this.#forward?.(id, request, post)
    if (elsewhere) return elsewhere
    const { message } = parseMessage(post.body, this.#options.limits)
    if (!('method' in message && 'id' in message)) return this.#fetch(request, message)
    const { clock, meter = unmetered } = this.#options
    const caller: Caller = { post, params: (message.params ?? {}) as JsonObject }
    if (message.method === 'subscriptions/listen') return this.#listen(request, message, caller)
    // What the SDK's own handlers ask, they check.
    const isCall = message.method === 'tools/call'
    const tool = isCall ? this.#tools.get(message.params?.['name'] as string) : undefined
    if (tool && !(await this.#host.goOn(caller))) {
      return json(JSON.stringify(respond(message.id, BAD_STATE)), 200)
    }
    const startedAt = clock.now()
    const plain = tool?.isPlain() === true ? await this.#findPlain(request, message) : undefined
    const response = await (plain === undefined
      ? this.#fetch(request, message, caller)
      : this.#call(request, message, { ...plain, caller }))
    // The host measures the calls of tools.
    if (!tool) meter({ kind: 'call', ...told(message, response), tookMs: clock.now() - startedAt })
    const { refusal, held } = caller
    if (held && this.#options.tellsHeld) response.headers.set(HELD_HEADER, '1')
    if (refusal === undefined) return response
    throw refused({ ...refusal, body: withId(refusal.body, message.id) })
  }

  /** Ends the streams of all listeners; they may listen elsewhere. */
  dismiss(): void {
    for (const end of this.#listening) end()
  }

  /** The call that `message` is, if the SDK's handler would have nothing to say against it. */
  async #findPlain(request: Request, message: JSONRPCRequest): Promise<PlainCall | undefined> {
    const envelope = isInOrder(request, message) ? envelopeOf(message) : undefined
    const own = envelope && (await findOwnCall(message, this.#pack.tools))
    return own && { ...own, envelope }
  }

  /** As the SDK's handler does, without a server, a connection and streams for each request. */
  #call(request: Request, message: JSONRPCRequest, call: AskedCall): Promise<Response> {
    const { clock, keepAliveMs, limits, log } = this.#options
    const stop = new AbortController()
    const gone = (): void => stop.abort()
    if (request.signal.aborted) gone()
    else request.signal.addEventListener('abort', gone, { once: true })
    const answer = new DirectAnswer(message.id, { clock, keepAliveMs, ...limits, stop })
    const asked: Asked = {
      ...call,
      progressToken: message.params?._meta?.progressToken,
      answers: {},
      signal: stop.signal,
      say: (notification) => answer.say(notification),
    }
    this.#outcome(request, message, { ...call, asked }).then(
      (outcome) => answer.replied(outcome),
      (error: unknown) => answer.replied({ error: rpcErrorOf(knownError(error, log)) }),
    )
    return answer.response
  }

  async #outcome(
    request: Request,
    message: JSONRPCRequest,
    { tool, input, asked }: OwnCall & { readonly asked: Asked },
  ): Promise<RpcOutcome> {
    const outcome = await outcomeOfCall(() => this.#host.answer(tool, input, asked))
    if ('error' in outcome) return outcome
    const { result } = outcome
    if (!isInputRequiredResult(result)) return { result: { ...result, ...this.#complete } }
    // Whether this client can be asked, and in which words, the SDK knows.
    const response = await this.#fetch(request, message, { ...asked.caller, answer: result })
    return outcomeOf((await response.json()) as Parameters<typeof outcomeOf>[0])
  }

  async #fetch(request: Request, parsedBody: JSONRPCMessage, caller?: Caller): Promise<Response> {
    const response = await this.#handler.fetch(request, {
      parsedBody,
      authInfo: authInfoOf(caller),
    })
    return safe(response.status === 400 ? await withoutQuotes(response) : response)
  }

  /** Each with a handler of its own: on the edge what one request has opened is not another's. */
  async #listen(request: Request, message: JSONRPCRequest, { post }: Caller): Promise<Response> {
    const [stop, bus] = [new AbortController(), new InMemoryServerEventBus()]
    const handler = this.#createHandler(bus)
    const { promise: ended, resolve: deaf } = Promise.withResolvers<void>()
    this.#listening.add(deaf)
    const over = (): void => {
      this.#listening.delete(deaf)
      stop.abort()
    }
    const { principal } = post
    try {
      const listening = { principal, bus, signal: stop.signal, deaf }
      const own = await this.#subscriptions.begin(message, listening)
      const response = safe(await handler.fetch(request, { parsedBody: own }))
      // One that is closed before would not answer.
      void ended.then(() => handler.close())
      return whenOver(bounded(response, this.#options.limits.maxBufferedBytes), over)
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
    const { success, data } = naming.safeParse(parseMessage(body, this.#options.limits).message)
    if (!success) return undefined
    const { arguments: input, uri = '' } = data.params
    return (input?.session as SessionId | undefined) ?? this.#subscriptions.sessionIn(uri)
  }

  #createHandler(bus: ServerEventBus): McpHttpHandler {
    const { isForAll, keepAliveMs, log } = this.#options
    return createMcpHandler(
      ({ era }) => this.#create(era === 'modern' ? [STATELESS_REVISION] : REVISIONS),
      {
        legacy: isForAll ? 'stateless' : 'reject',
        bus,
        keepAliveMs,
        onerror: (error) => log({ event: 'request_refused', why: reasonOf(error) }),
      },
    )
  }

  #create(revisions: readonly string[]): McpServer {
    return createServer(this.#pack, this.#host, { revisions, notifier: this.#handler.notify })
  }
}

/** A call that has nothing to it but its tool, its input and what it says of its client. */
interface PlainCall extends OwnCall, Pick<Asked, 'envelope'> {}
interface AskedCall extends PlainCall, Pick<Asked, 'caller'> {}

function told({ method }: JSONRPCRequest, { ok }: Response) {
  return { method, outcome: ok ? 'ok' : 'invalid_request' }
}

function withId(body: string, id: RequestId): string {
  return JSON.stringify({ ...JSON.parse(body), id })
}

/** Why the SDK refuses, without what it quotes from the request: that may be a session id. */
function reasonOf({ name, message }: Error): string {
  const [, rule] = /^Rejected .* request \(([\w-]+)\)/.exec(message) ?? []
  return rule ?? (name === 'Error' ? message : name)
}

/** What the SDK refuses, without what it quotes of the headers: that may be a session id. */
async function withoutQuotes(response: Response): Promise<Response> {
  const { error, ...reply } = z.looseObject({ error: rpcError }).parse(await response.json())
  if (error.code !== HEADER_MISMATCH) return json(JSON.stringify({ ...reply, error }), 400)
  const message = error.message.replaceAll(/"(?:[^"\\]|\\.)*"/g, '"…"')
  return json(JSON.stringify({ ...reply, error: { code: error.code, message } }), 400)
}

/** To look at a tool's schema takes its time, and few objects of the edge serve them all. */
function lazily(tool: Tool): () => boolean {
  let isPlain: boolean | undefined
  return () => (isPlain ??= hasPlainHeaders(tool))
}

/** What a request brings with it through the SDK. */
function authInfoOf(caller: Caller | undefined): AuthInfo {
  return { token: '', clientId: '', scopes: [], extra: { caller } }
}

/**
 * Whether a call's headers say just what its body says, letter by letter: most do, and what else there is
 * to find out about headers the SDK's handler knows.
 */
function isInOrder({ headers }: Request, { method, params }: JSONRPCRequest): boolean {
  const input = params?.['arguments'] as { readonly session?: unknown } | undefined
  return (
    headers.get('mcp-protocol-version') === STATELESS_REVISION &&
    params?._meta?.[PROTOCOL_VERSION_META_KEY] === STATELESS_REVISION &&
    headers.get('mcp-method') === method &&
    headers.get('mcp-name') === params['name'] &&
    headers.get(HANDLE_HEADER) === (input?.session ?? null)
  )
}

const naming = z.object({
  params: z.object({
    arguments: z.object({ session: z.string().optional() }).optional(),
    uri: z.string().optional(),
  }),
})
const rpcError = z.looseObject({ code: z.number(), message: z.string() })
const HEADER_MISMATCH = -32020
const BAD_STATE = {
  error: {
    code: -32602,
    message: 'Invalid or expired requestState',
    data: { reason: 'invalid_request_state' },
  },
}
