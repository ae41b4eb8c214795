import { Hono } from 'hono'
import { ServerError, sessionNotFound } from '../errors.ts'
import type { Log } from '../log.ts'
import type { Operator, Overview, SessionName } from '../operator.ts'
import { sleep, type Clock } from '../session/clock.ts'
import type { Principal } from '../session/ids.ts'
import type { AuthenticateOperator } from './auth.ts'
import { checkCaller, checkSite, type AllowList } from './headers.ts'
import { json, notAllowed, Refusal, refuse, SAFE_HEADERS } from './responses.ts'
import { textResponse } from './sse.ts'

export interface AdminOptions {
  readonly operator: Operator
  readonly authenticateOperator: AuthenticateOperator
  readonly allowed: AllowList
  readonly clock: Clock
  readonly log: Log
  readonly keepAliveMs: number
  readonly addressOf?: ((request: Request, env: unknown) => string | undefined) | undefined
  /** The text of the page, which has its script and its style in it. */
  readonly dashboard?: string | undefined
  /** What Prometheus reads. */
  readonly metrics?: (() => Promise<{ text: string; contentType: string }>) | undefined
  /** How often who looks on is told; unset: each second. */
  readonly overviewMs?: number | undefined
  /** Aborted when streams are to be let go. */
  readonly stopping?: AbortSignal | undefined
}

/** A request of an operator's. */
interface Asked {
  readonly name: string
  readonly principal: Principal
  readonly from: string | undefined
}

type Act = (asked: Asked) => Promise<Response>
type Routes = Readonly<Record<string, Readonly<Record<string, Act>>>>

const OVERVIEW_MS = 1000
// Headers go out with what is said first.
const FIRST = ': here\n\n'

/** What operators see and do, over HTTP. The page itself is for everybody: there is nothing in it. */
export function createAdmin(options: AdminOptions): Hono {
  const { addressOf, dashboard, log } = options
  const app = new Hono()
  for (const [path, acts] of Object.entries(routesOf(options))) {
    app.all(path, async ({ req, env }) => {
      const from = addressOf?.(req.raw, env)
      try {
        const principal = await admit(req.raw, from, options)
        const act = acts[req.raw.method]
        if (act === undefined) throw notAllowed(Object.keys(acts).join(', '))
        return await act({ name: req.param('name') ?? '', principal, from })
      } catch (error) {
        return refuse(error, log, from)
      }
    })
  }
  if (dashboard !== undefined) {
    let headers: Readonly<Record<string, string>> | undefined
    app.get('/dashboard', async () => {
      headers ??= await pageHeaders(dashboard)
      return new Response(dashboard, { headers })
    })
  }
  return app
}

async function admit(
  request: Request,
  from: string | undefined,
  { allowed, authenticateOperator }: AdminOptions,
): Promise<Principal> {
  checkCaller(request, allowed)
  checkSite(request, allowed)
  const principal = await authenticateOperator(request, from)
  if (principal instanceof Response) throw new Refusal('unauthorized', principal)
  return principal
}

function routesOf(options: AdminOptions): Routes {
  const { operator, metrics } = options
  const routes: Routes = {
    '/admin/overview': { GET: async () => page(await operator.overview()) },
    '/admin/live': { GET: () => live(options) },
    '/admin/sessions/:name': {
      GET: ({ name }) => session(name, operator),
      DELETE: (asked) => endSession(asked, options),
    },
    '/admin/sessions/:name/events': { GET: ({ name }) => follow(name, options) },
    '/admin/instances/:name/drain': { POST: (asked) => drain(asked, true, options) },
    '/admin/instances/:name/undrain': { POST: (asked) => drain(asked, false, options) },
  }
  if (metrics === undefined) return routes
  return { ...routes, '/metrics': { GET: () => measured(metrics) } }
}

async function session(name: string, operator: Operator): Promise<Response> {
  const { sessions } = await operator.overview()
  const found = sessions.latest.find((one) => one.name === name)
  if (found === undefined) throw sessionNotFound()
  return page(found)
}

async function endSession(
  { name, ...who }: Asked,
  { operator, log }: AdminOptions,
): Promise<Response> {
  if (!(await operator.end(name as SessionName))) throw sessionNotFound()
  log({ event: 'operator_ended_session', name, ...who })
  return new Response(null, { status: 204, headers: SAFE_HEADERS })
}

async function drain(
  { name: target, ...who }: Asked,
  isDrained: boolean,
  { operator, log }: AdminOptions,
): Promise<Response> {
  if (operator.drain === undefined) {
    const why = 'here they are the platform’s'
    throw new ServerError('not_implemented', `Cannot drain instances: ${why}`)
  }
  if (!(await operator.drain(target, isDrained))) {
    throw new ServerError('instance_not_found', 'Instance not found')
  }
  log({ event: isDrained ? 'operator_drained' : 'operator_undrained', target, ...who })
  return new Response(null, { status: 202, headers: SAFE_HEADERS })
}

/** Who is behind misses overviews: the next one is made when the last one has been taken. */
async function live(options: AdminOptions): Promise<Response> {
  const { operator, clock, overviewMs = OVERVIEW_MS } = options
  const first = await operator.overview()
  const stop = stopOf(options)
  async function* overviews(last: Overview): AsyncGenerator<Overview> {
    yield last
    for (;;) {
      await sleep(clock, overviewMs, stop.signal)
      // While it can't be had the stream is quiet.
      const next = await operator.overview().catch(() => undefined)
      if (next !== undefined) yield next
    }
  }
  return toldLive('overview', overviews(first), options, stop)
}

async function follow(name: string, options: AdminOptions): Promise<Response> {
  const stop = stopOf(options)
  try {
    const happenings = await options.operator.follow(name as SessionName, stop.signal)
    if (happenings === undefined) throw sessionNotFound()
    return toldLive('happening', happenings, options, stop)
  } catch (error) {
    stop.abort()
    throw error
  }
}

function toldLive(
  event: string,
  rest: AsyncIterable<object>,
  options: AdminOptions,
  stop: AbortController,
): Response {
  const textOf = (data: object): string => `event: ${event}\ndata: ${JSON.stringify(data)}\n\n`
  return textResponse({ first: FIRST, rest, textOf }, { ...options, maxBufferedBytes: 1 }, stop)
}

function stopOf({ stopping }: AdminOptions): AbortController {
  const stop = new AbortController()
  const over = (): void => stop.abort()
  if (stopping?.aborted) over()
  stopping?.addEventListener('abort', over, { signal: stop.signal })
  return stop
}

function page(content: object): Response {
  return json(JSON.stringify(content), 200)
}

async function measured(metrics: NonNullable<AdminOptions['metrics']>): Promise<Response> {
  const { text, contentType } = await metrics()
  return new Response(text, { headers: { ...SAFE_HEADERS, 'content-type': contentType } })
}

/** Has the browser run what is in the page, and nothing else; and ask this server, and no other. */
async function pageHeaders(text: string): Promise<Readonly<Record<string, string>>> {
  const policy = [
    "default-src 'none'",
    `script-src ${await hashesOf(text, 'script')}`,
    `style-src ${await hashesOf(text, 'style')}`,
    'img-src data:',
    "connect-src 'self'",
    "frame-ancestors 'none'",
    "base-uri 'none'",
    "form-action 'none'",
  ]
  return {
    ...SAFE_HEADERS,
    'content-type': 'text/html; charset=utf-8',
    'content-security-policy': policy.join('; '),
    'referrer-policy': 'no-referrer',
  }
}

async function hashesOf(text: string, element: 'script' | 'style'): Promise<string> {
  const inline = text.matchAll(new RegExp(`<${element}(?: [^>]*)?>(.*?)</${element}>`, 'gs'))
  const hashes = Array.from(inline, async ([, content = '']) => {
    const hash = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(content))
    return `'sha256-${btoa(String.fromCharCode(...new Uint8Array(hash)))}'`
  })
  return (await Promise.all(hashes)).join(' ') || "'none'"
}
