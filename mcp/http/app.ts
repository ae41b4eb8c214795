import type { JSONRPCMessage, RequestId } from '@modelcontextprotocol/server'
import { Hono } from 'hono'
import { isServerError, ServerError, sessionNotFound } from '../errors.ts'
import type { Log } from '../log.ts'
import { parseInitialize } from '../session/message.ts'
import type { Principal, SessionId } from '../session/ids.ts'
import type { Answer, Post, SessionRouter, StreamEvent } from '../session/router.ts'
import { readBody } from './body.ts'
import {
  checkCaller,
  checkGet,
  checkPost,
  checkProtocolVersion,
  isStateless,
  sessionIdOf,
  speaksStateless,
  type AllowList,
} from './headers.ts'
import type { HttpLimits } from './limits.ts'
import type { Authenticate } from './principal.ts'
import type { StatelessServer } from './stateless.ts'
import { errorResponse, json } from './responses.ts'
import { streamResponse, type SseOptions } from './sse.ts'

export interface AppOptions extends Omit<SseOptions, 'maxBufferedBytes'> {
  readonly router: SessionRouter
  readonly authenticate: Authenticate
  readonly allowed: AllowList
  /** Serves requests that have no session. */
  readonly stateless: Pick<StatelessServer, 'serve'>
  /** `off`: all of them. */
  readonly sessions: 'on' | 'off'
  readonly limits: HttpLimits
  readonly instance: string
  readonly log: Log
  /** True while the store can be reached. */
  readonly reachesStore: () => Promise<boolean>
  /** True once this instance is to take no more sessions. */
  readonly isDraining?: () => boolean
  /** The header in which a router in front names each request, the same over its replays. */
  readonly routerKeyHeader?: string | undefined
}

const METHODS = 'GET, POST, DELETE'

/** The HTTP surface, the same on every topology: all rules for headers, bodies and origins. */
export function createApp(options: AppOptions): Hono {
  const { instance, log } = options
  const app = new Hono()

  app.get('/live', (c) => c.json({ status: 'ok', instance }))
  for (const path of ['/health', '/ready']) {
    app.get(path, async (c) => {
      const draining = path === '/ready' && options.isDraining?.() === true
      if (draining) return c.json({ status: 'draining', instance }, 503)
      if (await options.reachesStore()) return c.json({ status: 'ok', instance })
      return c.json({ status: 'degraded', instance, store: 'unreachable' }, 503)
    })
  }

  app.all('/mcp', ({ req }) => serve(req.raw, options))
  app.notFound((c) => c.json({ error: 'Not found' }, 404))
  app.onError((error) => {
    if (error instanceof Refusal) return error.response
    if (isServerError(error)) return errorResponse(error)
    log({ event: 'request_failed', message: String(error) })
    return errorResponse(new ServerError('internal_error', 'Internal error'))
  })
  return app
}

function serve(request: Request, options: AppOptions): Promise<Response> {
  checkCaller(request, options.allowed)
  const isPost = request.method === 'POST'
  if (!isPost && (options.sessions === 'off' || isStateless(request))) return notAllowed('POST')
  switch (request.method) {
    case 'POST':
      return servePost(request, options)
    case 'GET':
      return serveGet(request, options)
    case 'DELETE':
      return serveDelete(request, options)
    default:
      return notAllowed(METHODS)
  }
}

function notAllowed(allow: string): Promise<Response> {
  const error = new ServerError('method_not_allowed', `Method not allowed: use ${allow}`)
  return Promise.resolve(errorResponse(error, { allow }))
}

/** A message of the client's: opens a session if it comes without the id of one. */
async function servePost(request: Request, options: AppOptions): Promise<Response> {
  checkPost(request)
  const id = options.sessions === 'on' && !isStateless(request) ? sessionIdOf(request) : undefined
  const principal = await authenticated(request, options)
  const post = await readPost(request, principal, options)
  if (id === undefined && (options.sessions === 'off' || speaksStateless(request, post.body))) {
    return options.stateless.serve(request, post)
  }
  checkProtocolVersion(request)
  if (id === undefined) return open(post, options.router)
  return respond(await options.router.deliver(id, post), id, principal, options)
}

/** The session's standalone stream, or the rest of any stream that broke. */
async function serveGet(request: Request, options: AppOptions): Promise<Response> {
  checkGet(request)
  const id = requireSessionId(request)
  const principal = await authenticated(request, options)
  const lastEventId = request.headers.get('last-event-id')
  return follow(id, principal, lastEventId === null ? {} : { lastEventId }, options)
}

async function serveDelete(request: Request, options: AppOptions): Promise<Response> {
  checkProtocolVersion(request)
  const id = requireSessionId(request)
  const principal = await authenticated(request, options)
  if (await options.router.end(id, principal)) return new Response(null)
  throw sessionNotFound()
}

async function readPost(
  request: Request,
  principal: Principal,
  options: AppOptions,
): Promise<Post> {
  const body = await readBody(request, options.limits.maxBodyBytes)
  const idempotencyKey = request.headers.get('idempotency-key') ?? undefined
  const sender = options.routerKeyHeader && request.headers.get(options.routerKeyHeader)
  const attempt = sender ? { sender, number: 0, settled: 0 } : undefined
  return { principal, body, idempotencyKey, attempt }
}

async function open(post: Post, router: SessionRouter): Promise<Response> {
  // Before the router is asked, so that nothing is made for what can't begin a session.
  parseInitialize(post.body)
  const opened = await router.open(post)
  switch (opened.kind) {
    case 'opened':
      return json(opened.body, 200, { 'mcp-session-id': opened.id })
    case 'refused':
      return json(opened.body, opened.status)
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
    case 'accepted':
      return new Response(null, { status: 202, headers: { 'mcp-session-id': id } })
    case 'stream': {
      const { after, replyAs } = answer
      const from = { lastEventId: after, ...(replyAs !== undefined && { replyAs }) }
      return follow(id, principal, from, options)
    }
    case 'refused':
      return json(answer.body, answer.status)
    case 'gone':
      throw sessionNotFound()
  }
}

async function follow(
  id: SessionId,
  principal: Principal,
  { lastEventId, replyAs }: { lastEventId?: string; replyAs?: RequestId },
  { router, limits, ...options }: AppOptions,
): Promise<Response> {
  const stop = new AbortController()
  const request = { ...(lastEventId !== undefined && { lastEventId }), signal: stop.signal }
  const following = await router.follow(id, principal, request)
  switch (following.kind) {
    case 'following': {
      const events = replyAs === undefined ? following.events : renamed(following.events, replyAs)
      const response = streamResponse({ ...following, events }, { ...options, ...limits }, stop)
      response.headers.set('mcp-session-id', id)
      return response
    }
    case 'refused':
      return json(following.body, following.status)
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

async function authenticated(request: Request, { authenticate }: AppOptions): Promise<Principal> {
  const caller = await authenticate(request)
  if (caller instanceof Response) throw new Refusal(caller)
  return caller
}

/** A refusal that is a whole response already. */
class Refusal extends Error {
  readonly response: Response

  constructor(response: Response) {
    super('Refused')
    this.response = response
  }
}
