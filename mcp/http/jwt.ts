import {
  createLocalJWKSet,
  errors,
  jwtVerify,
  type JSONWebKeySet,
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
/** Keys are read this often at most, whoever wants them and whatever comes of it. */
const COOLDOWN_MS = 1000
/** How often who waits for keys looks whether they have come. */
const WAIT_MS = 100
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
      const { sub: subject, exp = 0 } = payload
      if (typeof subject !== 'string' || subject === '') throw invalid('"sub" claim is no name')
      return { issuer, subject, scopes: scopesOf(payload), expiresAt: exp + TOLERANCE_SECONDS }
    } catch (error) {
      if (!(error instanceof errors.JOSEError)) throw error
      throw invalid(error.message)
    }
  }
}

/**
 * The keys of the issuer: read when they are needed first, when a token has an unknown one, and in the
 * background before they are old. Requests wait for what another one reads by looking again: on the
 * edge none may wait for another's promise, and jose's own remote set has each read for itself.
 */
function issuerKeys(url: URL, clock: Clock): JWTVerifyGetKey {
  let find: ReturnType<typeof createLocalJWKSet> | undefined
  let [askedAt, readAt, failedAt] = [-Infinity, -Infinity, -Infinity]
  const isWithin = (ms: number, at: number): boolean => clock.now() < at + ms

  async function read(): Promise<void> {
    askedAt = clock.now()
    try {
      find = createLocalJWKSet(await fetchKeys(url))
      readAt = clock.now()
    } catch {
      failedAt = clock.now()
    }
  }

  return async (header, token) => {
    const since = clock.now()
    for (;;) {
      if (find !== undefined && isWithin(MAX_AGE_MS, readAt)) {
        if (!isWithin(REFRESH_MS, readAt) && !isWithin(COOLDOWN_MS, askedAt)) void read()
        const key = await find(header, token).catch(unlessUnknown)
        if (key !== undefined) return key
        if (readAt >= since) throw new errors.JWKSNoMatchingKey()
      }
      if (isWithin(COOLDOWN_MS, failedAt)) throw unavailable()
      // It may be that new. To wait is better than to turn away who has done nothing wrong.
      if (isWithin(COOLDOWN_MS, askedAt)) await sleep(clock, WAIT_MS)
      else await read()
    }
  }
}

function unlessUnknown(error: unknown): undefined {
  if (error instanceof errors.JWKSNoMatchingKey) return undefined
  throw error instanceof errors.JOSEError ? error : unavailable()
}

function unavailable(): ServerError {
  const why = "its issuer's keys can't be read"
  return new ServerError('auth_unavailable', `Cannot check token: ${why}`)
}

async function fetchKeys(url: URL): Promise<JSONWebKeySet> {
  const signal = AbortSignal.timeout(FETCH_MS)
  const { status, body } = await fetch(url, { redirect: 'manual', signal })
  if (status !== 200) throw new Error(`HTTP ${status}`)
  return JSON.parse(new TextDecoder().decode(await readBytes(body, MAX_JWKS_BYTES)))
}

/** Says that a token is not good, and why. */
export function invalid(why: string): OAuthError {
  return new OAuthError(OAuthErrorCode.InvalidToken, why)
}

/** As RFC 8693 has them, or as others do. */
function scopesOf({ scope, scp = scope }: JWTPayload): string[] {
  if (Array.isArray(scp)) return scp.map(String)
  return typeof scp === 'string' ? scp.split(' ') : []
}
