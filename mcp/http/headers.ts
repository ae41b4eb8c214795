import { isJsonContentType, PROTOCOL_VERSION_META_KEY } from '@modelcontextprotocol/server'
import { ServerError } from '../errors.ts'
import type { SessionId } from '../session/ids.ts'
import { REVISIONS, STATELESS_REVISION } from '../session/revisions.ts'
import type { Attempt } from '../session/store.ts'

/** Who may ask: names a browser may have been pointed at, and pages that may call. */
export interface AllowList {
  /** Host names without port; `*.example.com` stands for every name below example.com. */
  readonly hosts: readonly string[]
  /** Whole origins, such as `https://app.example.com`; those on an allowed host need no mention. */
  readonly origins: readonly string[]
}

const SESSION_ID = /^[\x21-\x7e]{1,128}$/

/** Against DNS rebinding: a page that resolves its own name to this server is not let in. */
export function checkCaller(request: Request, allowed: AllowList): void {
  // A request may name its host in its target as well, which then counts.
  const target = /^\w+:\/\/([^/?#]*)/.exec(request.url)?.[1] ?? ''
  const host = request.headers.get('host') ?? target
  const named = host === target ? [host] : [host, target]
  if (!named.every((name) => isAllowedHost(name, allowed.hosts))) {
    throw new ServerError(
      'host_forbidden',
      'Cannot serve request: its Host is none of ALLOWED_HOSTS',
    )
  }
  const origin = request.headers.get('origin')
  if (origin === null || allowed.origins.includes(origin)) return
  if (!isAllowed(hostnameOf(origin), allowed.hosts)) {
    throw new ServerError('origin_forbidden', 'Cannot serve request: its Origin is not allowed')
  }
}

/** A page of another origin, also one on an allowed host, can't have a browser do what its user may. */
export function checkSite({ headers }: Request, { origins }: AllowList): void {
  const site = headers.get('sec-fetch-site') ?? 'none'
  if (site === 'same-origin' || site === 'none') return
  if (origins.includes(headers.get('origin') ?? '')) return
  throw new ServerError('origin_forbidden', 'Cannot serve request: it comes from another page')
}

export function checkPost(request: Request): void {
  checkContent(request)
  // Both, in every revision with sessions: the answer may be either.
  checkAccept(request, ['application/json', 'text/event-stream'])
}

export function checkGet(request: Request): void {
  checkAccept(request, ['text/event-stream'])
  checkProtocolVersion(request)
}

export function checkProtocolVersion(request: Request): void {
  const version = request.headers.get('mcp-protocol-version')
  if (version === null || REVISIONS.includes(version)) return
  throw new ServerError(
    'protocol_version_unsupported',
    `Bad Request: Unsupported protocol version (supported: ${REVISIONS.join(', ')})`,
  )
}

/** By its header, a request of the stateless revision, or of one that is not known yet. */
export function isStateless({ headers }: Request): boolean {
  const version = headers.get('mcp-protocol-version') ?? ''
  return /^\d{4}-\d{2}-\d{2}$/.test(version) && version >= STATELESS_REVISION
}

/** Also by what its body says, whatever its header: the two must agree, which is checked later. */
export function speaksStateless(request: Request, body: string): boolean {
  return isStateless(request) || body.includes(`"${PROTOCOL_VERSION_META_KEY}"`)
}

/** `undefined` if the header is missing; throws if it can't be one id. */
export function sessionIdOf(request: Request): SessionId | undefined {
  const text = request.headers.get('mcp-session-id')
  if (text === null) return undefined
  if (text.includes(',')) {
    throw new ServerError('invalid_request', 'Cannot use mcp-session-id: there is more than one')
  }
  if (!SESSION_ID.test(text)) throw new ServerError('session_not_found', 'Session not found')
  return text as SessionId
}

function checkContent({ headers }: Request): void {
  const type = headers.get('content-type') ?? ''
  const encoding = headers.get('content-encoding') ?? 'identity'
  // What nearly every client sends is not taken apart, here and for Accept.
  if (type === 'application/json' && encoding === 'identity') return
  const charset = /;\s*charset\s*=\s*"?([^\s";]+)/i.exec(type)?.[1]?.toLowerCase() ?? 'utf-8'
  if (isJsonContentType(type) && charset === 'utf-8' && encoding === 'identity') return
  const why = 'it must be application/json in UTF-8, not compressed'
  throw new ServerError('media_type_unsupported', `Cannot read body: ${why}`)
}

function checkAccept({ headers }: Request, types: readonly string[]): void {
  const accept = headers.get('accept') ?? ''
  if (accept === types.join(', ')) return
  const ranges = accept.split(',')
  const accepted = new Set(ranges.map((range) => range.split(';')[0]?.trim()))
  if (types.every((type) => accepted.has(type))) return
  const why = `the client must accept ${types.join(' and ')}`
  throw new ServerError('not_acceptable', `Not Acceptable: ${why}`)
}

/** The host name of what is an origin and nothing more; `undefined` for anything else. */
function hostnameOf(origin: string): string | undefined {
  if (!URL.canParse(origin)) return undefined
  const url = new URL(origin)
  const plain =
    url.username === '' && url.password === '' && url.pathname === '/' && url.search === ''
  return plain && /^https?:$/.test(url.protocol) ? url.hostname : undefined
}

/** `host` with or without a port. */
function isAllowedHost(host: string, hosts: readonly string[]): boolean {
  // Nearly every request is answered by the first line; the second one reads a URL.
  const [, name] = /^([a-z0-9.-]+)(?::[0-9]+)?$/.exec(host) ?? []
  return isAllowed(name ?? hostnameOf(`http://${host}`), hosts)
}

function isAllowed(hostname: string | undefined, hosts: readonly string[]): boolean {
  if (hostname === undefined) return false
  return hosts.some((host) =>
    host.startsWith('*.') ? hostname.endsWith(host.slice(1)) : hostname === host,
  )
}

const NUMBERED = /^(.+);number=(\d{1,15})$/

/**
 * A router's key: `<connection>;number=<n>` from one that numbers what comes on a connection of its
 * clients, where each request is over before the next one; else the name of this request alone.
 */
export function parseRouterKey(text: string): Attempt {
  const [, sender = text, digits = '0'] = NUMBERED.exec(text) ?? []
  const number = Number(digits)
  return { sender, number, settled: number }
}
