import {
  createRemoteJWKSet,
  customFetch,
  errors,
  jwksCache,
  jwtVerify,
  type ExportedJWKSCache,
  type JWTPayload,
  type JWTVerifyGetKey,
} from 'jose'
import { OAuthError, OAuthErrorCode } from '@modelcontextprotocol/server'
import { ServerError } from '../errors.ts'
import { sleep, type Clock } from '../session/clock.ts'
import { readBytes } from './body.ts'

export interface JwtConfig {
  readonly issuer: string
  readonly audience: string
  /** Where the issuer shows its keys. */
  readonly jwksUrl: URL
  readonly algorithms: string[]
}

export interface VerifiedJwt {
  readonly issuer: string
  readonly subject: string
  readonly scopes: string[]
  /** Seconds since the epoch. */
  readonly expiresAt: number
}

const TOLERANCE_SECONDS = 30
const FETCH_MS = 3000
const MAX_JWKS_BYTES = 256 * 1024
/** Tokens with an unknown key have the keys read again, but not more often than this. */
const COOLDOWN_MS = 1000
const REFRESH_MS = 10 * 60_000
/** Keys are trusted for so long when they can't be read again. */
const MAX_AGE_MS = 60 * 60_000

/**
 * Checks JSON Web Tokens. What it answers throws an OAuth error for a token that is not good, and
 * `auth_unavailable` where that can't be told because the issuer's keys can't be read.
 */
export function createJwtVerifier(
  { issuer, audience, jwksUrl, algorithms }: JwtConfig,
  clock: Clock,
): (token: string) => Promise<VerifiedJwt> {
  const keys = issuerKeys(jwksUrl, clock)
  const requiredClaims = ['exp', 'sub']
  const options = {
    issuer,
    audience,
    algorithms,
    requiredClaims,
    clockTolerance: TOLERANCE_SECONDS,
  }
  return async (token) => {
    try {
      const { payload } = await jwtVerify(token, keys, options)
      const { sub: subject = '', exp = 0 } = payload
      if (subject === '') throw invalid('"sub" claim is empty')
      return { issuer, subject, scopes: scopesOf(payload), expiresAt: exp + TOLERANCE_SECONDS }
    } catch (error) {
      if (!(error instanceof errors.JOSEError)) throw error
      throw invalid(error.message)
    }
  }
}

/** The keys of the issuer: read when they are needed first, and again in the background. */
function issuerKeys(url: URL, clock: Clock): JWTVerifyGetKey {
  const cache: Partial<ExportedJWKSCache> = {}
  const keys = createRemoteJWKSet(url, {
    timeoutDuration: FETCH_MS,
    cooldownDuration: COOLDOWN_MS,
    cacheMaxAge: MAX_AGE_MS,
    [jwksCache]: cache as ExportedJWKSCache,
    [customFetch]: fetchBounded,
  })
  let refreshedAt = 0

  function refresh(): void {
    const { uat: readAt = Infinity } = cache
    if (clock.now() < Math.max(readAt + REFRESH_MS, refreshedAt + COOLDOWN_MS)) return
    refreshedAt = clock.now()
    keys.reload().catch(() => undefined)
  }

  return async (header, token) => {
    refresh()
    try {
      return await keys(header, token).catch(async (error: unknown) => {
        if (!(error instanceof errors.JWKSNoMatchingKey && keys.coolingDown)) throw error
        // The key may be that new. To wait is better than to turn away who has done nothing wrong.
        await sleep(clock, COOLDOWN_MS)
        return keys(header, token)
      })
    } catch (error) {
      if (error instanceof errors.JOSEError && !UNREADABLE.has(error.code)) throw error
      const why = "its issuer's keys can't be read"
      throw new ServerError('auth_unavailable', `Cannot check token: ${why}`)
    }
  }
}

const UNREADABLE = new Set<string>([
  errors.JOSEError.code,
  errors.JWKSTimeout.code,
  errors.JWKSInvalid.code,
])

async function fetchBounded(url: string, options: RequestInit): Promise<Response> {
  const { status, body } = await fetch(url, options)
  return new Response(await readBytes(body, MAX_JWKS_BYTES), { status })
}

/** Says that a token is not good, and why. */
export function invalid(why: string): OAuthError {
  return new OAuthError(OAuthErrorCode.InvalidToken, why)
}

/** As RFC 8693 has them, or as a list. */
function scopesOf({ scope, scp }: JWTPayload): string[] {
  if (Array.isArray(scp)) return scp.map(String)
  return typeof scope === 'string' ? scope.split(' ') : []
}
