import {
  bearerAuthChallengeResponse,
  getOAuthProtectedResourceMetadataUrl,
  verifyBearerToken,
  type AuthInfo,
} from '@modelcontextprotocol/server'
import { isLoopback } from '../config.ts'
import { isServerError, ServerError } from '../errors.ts'
import type { Clock } from '../session/clock.ts'
import { base64url, type Principal } from '../session/ids.ts'
import { safe } from './responses.ts'
import { createJwtVerifier, invalid, type JwtConfig } from './jwt.ts'

/** How callers say who they are. */
export interface AuthConfig {
  readonly tokens: readonly StaticToken[]
  readonly jwt?: JwtConfig & {
    /** The address of this server as clients use it. */
    readonly publicUrl: string
  }
  /** Only tokens that have it are let in. */
  readonly requiredScope: string | undefined
  /** Tokens that have it are those of the people who run the server. */
  readonly adminScope: string
}

export interface StaticToken {
  readonly name: string
  /** SHA-256 of the token. */
  readonly hash: Uint8Array
  readonly scopes: string[]
}

/** Says who sends `request`, or answers it with the refusal. Throws `auth_unavailable`. */
export type Authenticate = (request: Request) => Promise<Principal | Response>

export const ANONYMOUS = 'anonymous' as Principal

/** Everybody is the same caller: whoever knows a session id may use the session. */
export const anonymous: Authenticate = () => Promise.resolve(ANONYMOUS)

/** The same, where requests come from this machine alone. */
export const anonymousHere: Authenticate = async ({ url }) => {
  if (isLoopback(new URL(url).hostname)) return ANONYMOUS
  const why = 'nothing is set up to authenticate callers, and ALLOW_ANONYMOUS is not set'
  throw new ServerError('anonymous_forbidden', `Cannot serve request: ${why}`)
}

/** The same for who wants to see or do what is the operators'. `address` is where that comes from. */
export type AuthenticateOperator = (
  request: Request,
  address: string | undefined,
) => Promise<Principal | Response>

/** By a token that has their scope; where callers need none, whoever is on this machine. */
export function operators(auth: AuthConfig | undefined, clock: Clock): AuthenticateOperator {
  return auth === undefined
    ? operatorsHere
    : bearer({ ...auth, requiredScope: auth.adminScope }, clock)
}

const operatorsHere: AuthenticateOperator = async ({ headers, url }, address) => {
  // A proxy on this machine hands on requests of others. One that says so is believed.
  const via = headers.get('x-forwarded-for')?.split(',') ?? []
  const from = [new URL(url).hostname, address ?? '', ...via.map((part) => part.trim())]
  if (from.every((one) => isLoopback(one.replace(/^::ffff:/, '')))) return ANONYMOUS
  const why = 'without tokens only this machine may, see ADMIN_SCOPE'
  throw new ServerError('admin_forbidden', `Cannot serve operators: ${why}`)
}

/** By bearer token: a static one, or a JWT. */
export function bearer(config: AuthConfig, clock: Clock): Authenticate {
  const { tokens, jwt, requiredScope } = config
  const verifyJwt = jwt && createJwtVerifier(jwt, clock)
  const options = {
    verifier: {
      async verifyAccessToken(token: string): Promise<AuthInfo> {
        const known = await findToken(tokens, token)
        if (known !== undefined) return authInfo('token', known.name, known.scopes, Infinity)
        if (verifyJwt === undefined) throw invalid('Unknown token')
        const { issuer, subject, scopes, expiresAt } = await verifyJwt(token)
        return authInfo(issuer, subject, scopes, expiresAt)
      },
    },
    requiredScopes: requiredScope === undefined ? [] : [requiredScope],
    ...(jwt && { resourceMetadataUrl: metadataUrl(jwt) }),
  }
  return async ({ headers }) => {
    try {
      const { extra } = await verifyBearerToken(headers.get('authorization'), options)
      return extra?.['principal'] as Principal
    } catch (error) {
      if (isServerError(error)) throw error
      return safe(bearerAuthChallengeResponse(error, options))
    }
  }
}

export type ResourceMetadata = NonNullable<ReturnType<typeof resourceMetadata>>

/** Where a token can be had, and where that is said: RFC 9728. `undefined` if nobody issues them. */
export function resourceMetadata({ jwt, requiredScope }: AuthConfig) {
  if (jwt === undefined) return undefined
  const document = {
    resource: jwt.publicUrl,
    authorization_servers: [jwt.issuer],
    bearer_methods_supported: ['header'],
    ...(requiredScope !== undefined && { scopes_supported: [requiredScope] }),
  }
  return { path: new URL(metadataUrl(jwt)).pathname, document }
}

function metadataUrl({ publicUrl }: { readonly publicUrl: string }): string {
  return getOAuthProtectedResourceMetadataUrl(new URL(publicUrl))
}

/** The same caller for ever, whatever token says so: its issuer's name for it, and the issuer's. */
async function principalOf(issuer: string, subject: string): Promise<Principal> {
  const hash = await crypto.subtle.digest('SHA-256', encoder.encode(`${issuer}\0${subject}`))
  return base64url(new Uint8Array(hash)) as Principal
}

async function authInfo(
  issuer: string,
  subject: string,
  scopes: string[],
  expiresAt: number,
): Promise<AuthInfo> {
  const principal = await principalOf(issuer, subject)
  return { token: '', clientId: '', scopes, expiresAt, extra: { principal } }
}

/** By its hash, which is all that is known of it; each is compared, and to its end. */
async function findToken(tokens: AuthConfig['tokens'], token: string) {
  const hash = new Uint8Array(await crypto.subtle.digest('SHA-256', encoder.encode(token)))
  let found: AuthConfig['tokens'][number] | undefined
  for (const known of tokens) if (isEqual(known.hash, hash)) found = known
  return found
}

function isEqual(a: Uint8Array, b: Uint8Array): boolean {
  let difference = a.length ^ b.length
  for (const [at, byte] of a.entries()) difference |= byte ^ (b[at] ?? 0)
  return difference === 0
}

const encoder = new TextEncoder()
