import type { JSONRPCMessage, RequestId } from '@modelcontextprotocol/server'
import { Hono } from 'hono'
import { ServerError, sessionNotFound } from '../errors.ts'
import type { Limits } from '../limits.ts'
import type { Log } from '../log.ts'
import { parseInitialize } from '../session/message.ts'
import type { Principal, SessionId } from '../session/ids.ts'
import type { Answer, Post, SessionRouter, StreamEvent } from '../session/router.ts'
import { createAdmin, type AdminOptions } from './admin.ts'
import type { Authenticate, ResourceMetadata } from './auth.ts'
import { readBody } from './body.ts'
import {
  checkCaller,
  checkGet,
  checkPost,
  checkProtocolVersion,
  isStateless,
  parseRouterKey,
  sessionIdOf,
  speaksStateless,
  type AllowList,
} from './headers.ts'
import { json, notAllowed, Refusal, refuse, refused, SAFE_HEADERS } from './responses.ts'
import { Room } from './room.ts'
import { sourceOf } from './source.ts'
import { streamResponse, type SseOptions } from './sse.ts'
import type { StatelessServer } from './stateless.ts'

export interface AppOptions
  extends
    Omit<SseOptions, 'maxBufferedBytes'>,
    Pick<AdminOptions, 'dashboard' | 'metrics' | 'overviewMs' | 'stopping'> {
  readonly router: SessionRouter
  readonly authenticate: Authenticate
  /** Where clients are told how to get a token. */
  readonly metadata?: ResourceMetadata | undefined
  readonly allowed: AllowList
  /** Unset: there is nothing for operators here. */
  readonly operator?: AdminOptions['operator'] | undefined
  readonly authenticateOperator?: AdminOptions['authenticateOperator'] | undefined
  /** Serves requests that have no session. */
  readonly stateless: Pick<StatelessServer, 'serve'>
  /** `off`: all of them. */
  readonly sessions: 'on' | 'off'
  readonly limits: Limits
  readonly instance: string
  readonly log: Log
  /** True while the store can be reached. */
  readonly reachesStore: () => Promise<boolean>
  /** The address that a request has come from; `env` is the runtime's, as it gave it to `fetch`. */
  readonly addressOf?: (request: Request, env: unknown) => string | undefined
  /** True once this instance is to take no more sessions. */
  readonly isDraining?: () => boolean
  /** The header in which a router in front names each request, the same over its replays. */
  readonly routerKeyHeader?: string | undefined
}

const METHODS = 'GET, POST, DELETE'

/** The HTTP surface, the same on every topology: all rules for headers, bodies and origins. */
export function createApp(options: AppOptions): Hono {
  const { instance, metadata } = options
  const app = new Hono()
  const page = (content: object, status = 200, headers = {}): Response =>
    json(JSON.stringify(content), status, headers)

  app.get('/live', () => page({ status: 'ok', instance }))
  for (const path of ['/health', '/ready']) {
    app.get(path, async () => {
      const draining = path === '/ready' && options.isDraining?.() === true
      if (draining) return page({ status: 'draining', instance }, 503)
      if (await options.reachesStore()) return page({ status: 'ok', instance })
      return page({ status: 'degraded', instance, store: 'unreachable' }, 503)
    })
  }
  if (metadata !== undefined) {
    // For pages of any origin: it is public.
    const headers = { 'access-control-allow-origin': '*' }
    app.get(metadata.path, () => page(metadata.document, 200, headers))
  }

  const { operator, authenticateOperator } = options
  if (operator && authenticateOperator) {
    app.route('/', createAdmin({ ...options, operator, authenticateOperator }))
  }

  const serveMcp = createServe(options)
  app.all('/mcp', ({ req, env }) => serveMcp(req.raw, options.addressOf?.(req.raw, env)))
  app.notFound(() => page({ error: 'Not found' }, 404))
  return app
}

/** Serves `/mcp`, and puts on record what is refused. */
function createServe(options: AppOptions) {
  const { log, limits, clock } = options
  const serving = { ...options, room: new Room(limits.maxRequests, clock) }
  return async (request: Request, address: string | undefined): Promise<Response> => {
    try {
      return await serve(request, address, serving)
    } catch (error) {
      return refuse(error, log, address)
    }
  }
}

interface ServeOptions extends AppOptions {
  readonly room: Room
}

interface Caller {
  readonly principal: Principal
  /** Whose share of sessions a new one is of. */
  readonly source: string
}

async function serve(
  request: Request,
  address: string | undefined,
  options: ServeOptions,
): Promise<Response> {
  const isPost = request.method === 'POST'
  // Who can't be served now is to cost as little as can be.
  if (isPost) options.room.look()
  checkCaller(request, options.allowed)
  const principal = await options.authenticate(request)
  if (principal instanceof Response) throw new Refusal('unauthorized', principal)
  if (!isPost && (options.sessions === 'off' || isStateless(request))) throw notAllowed('POST')
  switch (request.method) {
    case 'POST':
      return servePost(request, { principal, source: sourceOf(principal, address) }, options)
    case 'GET':
      return serveGet(request, principal, options)
    case 'DELETE':
      return serveDelete(request, principal, options)
    default:
      throw notAllowed(METHODS)
  }
}

/** A message of the client's: opens a session if it comes without the id of one. */
async function servePost(
  request: Request,
  caller: Caller,
  options: ServeOptions,
): Promise<Response> {
  checkPost(request)
  const id = options.sessions === 'on' && !isStateless(request) ? sessionIdOf(request) : undefined
  const post = await readPost(request, caller, options)
  const leave = options.room.enter()
  try {
    if (id === undefined && (options.sessions === 'off' || speaksStateless(request, post.body))) {
      return await options.stateless.serve(request, post)
    }
    checkProtocolVersion(request)
    if (id === undefined) return await open(post, options)
    return await respond(await options.router.deliver(id, post), id, caller.principal, options)
  } finally {
    leave()
  }
}

/** The session's standalone stream, or the rest of any stream that broke. */
async function serveGet(
  request: Request,
  principal: Principal,
  options: AppOptions,
): Promise<Response> {
  checkGet(request)
  const id = requireSessionId(request)
  const lastEventId = request.headers.get('last-event-id')
  return follow(id, principal, lastEventId === null ? {} : { lastEventId }, options)
}

async function serveDelete(
  request: Request,
  principal: Principal,
  options: AppOptions,
): Promise<Response> {
  checkProtocolVersion(request)
  const id = requireSessionId(request)
  if (!(await options.router.end(id, principal))) throw sessionNotFound()
  return new Response(null, { headers: SAFE_HEADERS })
}

async function readPost(request: Request, caller: Caller, options: AppOptions): Promise<Post> {
  const body = await readBody(request, options.limits.maxBodyBytes)
  const idempotencyKey = request.headers.get('idempotency-key') ?? undefined
  const routerKey = options.routerKeyHeader && request.headers.get(options.routerKeyHeader)
  const attempt = routerKey ? parseRouterKey(routerKey) : undefined
  return { ...caller, body, idempotencyKey, attempt }
}

async function open(post: Post, { router, limits }: AppOptions): Promise<Response> {
  // Before the router is asked, so that nothing is made for what can't begin a session.
  parseInitialize(post.body, limits)
  const opened = await router.open(post)
  switch (opened.kind) {
    case 'opened':
      return json(opened.body, 200, { 'mcp-session-id': opened.id })
    case 'refused':
      throw refused(opened)
    case 'gone':
      throw sessionNotFound()
  }
}

async function respond(
  answer: Answer,
  id: SessionId,
  principal: Principal,
  options: AppOptions,
): Promise<Response> {
  switch (answer.kind) {
    case 'reply':
      return json(answer.body, 200, { 'mcp-session-id': id })
    case 'accepted': {
      const headers = { 'mcp-session-id': id, ...SAFE_HEADERS }
      return new Response(null, { status: 202, headers })
    }
    case 'stream': {
      const { after, replyAs } = answer
      const from = { lastEventId: after, ...(replyAs !== undefined && { replyAs }) }
      return follow(id, principal, from, options)
    }
    case 'refused':
      throw refused(answer)
    case 'gone':
      throw sessionNotFound()
  }
}

async function follow(
  id: SessionId,
  principal: Principal,
  { lastEventId, replyAs }: { lastEventId?: string; replyAs?: RequestId },
  { router, limits, clock, retryMs, keepAliveMs }: AppOptions,
): Promise<Response> {
  const stop = new AbortController()
  const request = { ...(lastEventId !== undefined && { lastEventId }), signal: stop.signal }
  const following = await router.follow(id, principal, request)
  switch (following.kind) {
    case 'following': {
      const events = replyAs === undefined ? following.events : renamed(following.events, replyAs)
      const headers = { 'mcp-session-id': id }
      const { maxBufferedBytes } = limits
      // No more than it needs: it is kept for as long as the stream is open.
      const options = { clock, retryMs, keepAliveMs, maxBufferedBytes, headers }
      return streamResponse({ ...following, events }, options, stop)
    }
    case 'refused':
      throw refused(following)
    case 'gone':
      throw sessionNotFound()
  }
}

/** The events with the reply's JSON-RPC id set to `id`. */
async function* renamed(
  events: AsyncIterable<StreamEvent>,
  id: RequestId,
): AsyncGenerator<StreamEvent> {
  for await (const event of events) {
    const message = event.kind === 'event' ? (JSON.parse(event.data) as JSONRPCMessage) : undefined
    if (event.kind !== 'event' || message === undefined || 'method' in message) yield event
    else yield { ...event, data: JSON.stringify({ ...message, id }) }
  }
}

function requireSessionId(request: Request): SessionId {
  const id = sessionIdOf(request)
  if (id !== undefined) return id
  const why = 'the mcp-session-id header is missing'
  throw new ServerError('session_required', `Bad Request: ${why}`)
}
