import { base64url, exportJWK, SignJWT, type JWTPayload } from 'jose'
import {
  AUDIENCE,
  createKey,
  SCOPE,
  secondsFromNow,
  type Issuer,
  type IssuerKey,
  type Signing,
} from './issuer.ts'
import type { Issuers } from './auth-world.ts'
import type { RawRequest } from './raw.ts'
import type { TopologyName } from './topologies.ts'

type Headers = NonNullable<RawRequest['headers']>

export interface TokenRow {
  readonly what: string
  readonly headers: (issuers: Issuers) => Promise<Headers>
  readonly target?: (issuers: Issuers) => Promise<string>
  /** Where something in front refuses it before the server can. */
  readonly on?: Partial<Record<TopologyName, number>>
}

/** What is no token, or none of ours: 401. */
export const NO_TOKENS: readonly TokenRow[] = [
  row('nothing', async () => ''),
  row('an empty header', async () => ' '),
  row('Bearer and nothing', async () => 'Bearer'),
  row('a word that is none', async () => 'Bearer x'),
  row('dots', async () => 'Bearer ..'),
  row('Basic', async () => `Basic ${btoa('alice:secret')}`),
  row('a token as Basic', async ({ issuer }) => `Basic ${await issuer.sign()}`),
  row('a token and no scheme', async ({ issuer }) => issuer.sign()),
  {
    what: 'a token in the query',
    headers: async () => ({}),
    target: async ({ issuer }) => `/mcp?access_token=${await issuer.sign()}`,
  },
  {
    what: 'a token in a cookie',
    headers: async ({ issuer }) => ({ cookie: `access_token=${await issuer.sign()}` }),
  },
  two('two headers, the first one good', (good, bad) => [good, bad]),
  two('two headers, the second one good', (good, bad) => [bad, good]),
  two('two headers, both good', (good) => [good, good]),
]

/** Tokens with one thing wrong: 401. */
export const BAD_TOKENS: readonly TokenRow[] = [
  token('another audience', claims({ aud: 'https://other.example/mcp' })),
  token('an audience that begins like ours', claims({ aud: `${AUDIENCE}/` })),
  token('no audience', claims({ aud: undefined })),
  token('another issuer', claims({ iss: 'https://issuer.example' })),
  token('an issuer with a slash behind it', ({ issuer }) =>
    issuer.sign({ claims: { iss: `${issuer.url}/` } }),
  ),
  token('no issuer', claims({ iss: undefined })),
  token('an end that is past', claims({ exp: -40 })),
  token('a beginning that is to come', claims({ nbf: 40 })),
  token('no end', claims({ exp: undefined })),
  token('no subject', claims({ sub: undefined })),
  ...[5, null, {}, ['alice'], true].map((sub) =>
    token(`${JSON.stringify(sub)} as subject`, claims({ sub: sub as unknown as string })),
  ),
  token('an empty subject', claims({ sub: '' })),
  token('an end that is no number', ({ issuer }) =>
    issuer.sign({ claims: { exp: '4102444800' as unknown as number } }),
  ),
  token('an unknown key', async ({ issuer }) => issuer.sign({ header: { kid: 'unknown' } })),
  token("another issuer's key", async ({ issuer, other }) => issuer.sign({ key: other.key() })),
  token("another issuer's key under a name of ours", async ({ issuer, other }) =>
    issuer.sign({ key: other.key(), header: { kid: issuer.key().kid } }),
  ),
  token("another issuer's token", async ({ other }) => other.sign()),
  token('an algorithm that is not allowed', ({ issuer, rsa }) => signRs512(issuer, rsa)),
  token('an algorithm that the key is not for', ({ issuer }) =>
    issuer.sign().then((good) => withHeader(good, { alg: 'RS256', kid: issuer.key().kid })),
  ),
  ...['none', 'None', 'NONE'].map((alg) =>
    token(`${alg} as algorithm`, async ({ issuer }) => {
      const [, payload] = (await issuer.sign()).split('.')
      return `${encode({ alg, kid: issuer.key().kid })}.${payload}.`
    }),
  ),
  token('a secret that is the public key as PEM', ({ issuer, rsa }) =>
    signShared(issuer, rsa.kid, rsa.pem),
  ),
  token('a secret that is the public key as JWK', ({ issuer, rsa }) =>
    signShared(issuer, rsa.kid, JSON.stringify(rsa.jwk)),
  ),
  token(
    'a key of its own',
    withOwnKey((_other, jwk) => ({ jwk })),
  ),
  token(
    'an address of keys of its own',
    withOwnKey(({ jwksUrl }) => ({ jku: jwksUrl })),
  ),
  token(
    'an address of certificates of its own',
    withOwnKey(({ jwksUrl }) => ({ x5u: jwksUrl })),
  ),
  token('a critical header that nobody knows', async ({ issuer }) => {
    const good = await issuer.sign()
    return withHeader(good, { alg: 'ES256', kid: issuer.key().kid, crit: ['x'], x: 1 })
  }),
  ...['x\r\nx: y', 'ключ', 'a "b" \\'].map((name) =>
    token(`a critical header named ${JSON.stringify(name)}`, async ({ issuer }) => {
      const good = await issuer.sign()
      return withHeader(good, { alg: 'ES256', kid: issuer.key().kid, crit: [name], [name]: 1 })
    }),
  ),
  token('a signature cut short', async ({ issuer }) => (await issuer.sign()).slice(0, -8)),
  token('no signature', async ({ issuer }) => (await issuer.sign()).replace(/[^.]+$/, '')),
  token('a changed signature', async ({ issuer }) => changed(await issuer.sign(), 2)),
  token('changed claims', async ({ issuer }) => {
    const [head, payload = '', signature] = (await issuer.sign()).split('.')
    const told = JSON.parse(new TextDecoder().decode(base64url.decode(payload)))
    return [head, encode({ ...told, sub: 'mallory' }), signature].join('.')
  }),
  token('two parts', async ({ issuer }) => (await issuer.sign()).split('.').slice(0, 2).join('.')),
]

/** Good tokens that lack what is asked of all: 403. */
export const SHORT_TOKENS: readonly TokenRow[] = [
  token('no scope', claims({ scope: undefined })),
  token('another scope', claims({ scope: 'other' })),
  token('a scope that begins like ours', claims({ scope: `${SCOPE}:read` })),
  token('a scope in capitals', claims({ scope: SCOPE.toUpperCase() })),
  token('a list without it', claims({ scope: SCOPE, scp: ['other'] })),
]

/** Good tokens. */
export const GOOD_TOKENS: readonly { readonly what: string; readonly token: Signer }[] = [
  { what: 'ES256', token: ({ issuer }) => issuer.sign() },
  { what: 'RS256', token: ({ issuer, rsa }) => issuer.sign({ key: rsa }) },
  { what: 'EdDSA', token: ({ issuer, ed }) => issuer.sign({ key: ed }) },
  { what: 'one of several audiences', token: claims({ aud: ['x', AUDIENCE] }) },
  { what: 'one of several scopes', token: claims({ scope: `other ${SCOPE} more` }) },
  { what: 'a list of scopes', token: claims({ scope: undefined, scp: ['other', SCOPE] }) },
  { what: 'an end that is just past', token: claims({ exp: -15 }) },
  { what: 'a beginning that is about to come', token: claims({ nbf: 15 }) },
]

type Signer = (issuers: Issuers) => Promise<string>

function row(what: string, authorization: Signer): TokenRow {
  return {
    what,
    async headers(issuers) {
      const text = await authorization(issuers)
      return { authorization: text === '' ? undefined : text }
    },
  }
}

function two(what: string, both: (good: string, bad: string) => readonly string[]): TokenRow {
  const headers = async ({ issuer }: Issuers): Promise<Headers> => ({
    authorization: both(`Bearer ${await issuer.sign()}`, 'Bearer x'),
  })
  // Where requests are routed by their headers there may be one of each.
  return { what, headers, on: { fleet: 400 } }
}

function token(what: string, sign: Signer): TokenRow {
  return row(what, async (issuers) => `Bearer ${await sign(issuers)}`)
}

type Changes = { readonly [claim in keyof JWTPayload]: JWTPayload[claim] | undefined }

/** With times in seconds from now. */
function claims(changes: Changes): Signer {
  const fromNow = ([claim, value]: [string, unknown]) => {
    const isTime = claim === 'exp' || claim === 'nbf'
    return [claim, isTime && typeof value === 'number' ? secondsFromNow(value) : value]
  }
  return ({ issuer }) =>
    issuer.sign({ claims: Object.fromEntries(Object.entries(changes).map(fromNow)) })
}

function encode(part: object): string {
  return base64url.encode(JSON.stringify(part))
}

function withHeader(good: string, header: object): string {
  return good.replace(/^[^.]+/, encode(header))
}

/** With one letter of a part another one: in its middle, where all of its bits count. */
function changed(good: string, part: number): string {
  const parts = good.split('.')
  const text = parts[part] ?? ''
  const at = Math.floor(text.length / 2)
  parts[part] = `${text.slice(0, at)}${text[at] === 'A' ? 'B' : 'A'}${text.slice(at + 1)}`
  return parts.join('.')
}

/** By the same key, which would do for it. */
async function signRs512(issuer: Issuer, { privateKey, kid }: IssuerKey) {
  const pkcs8 = await crypto.subtle.exportKey('pkcs8', privateKey)
  const rsa = { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-512' }
  const key = await crypto.subtle.importKey('pkcs8', pkcs8, rsa, true, ['sign'])
  return new SignJWT(usual(issuer)).setProtectedHeader({ alg: 'RS512', kid }).sign(key)
}

function signShared(issuer: Issuer, kid: string, secret: string): Promise<string> {
  const key = new TextEncoder().encode(secret)
  return new SignJWT(usual(issuer)).setProtectedHeader({ alg: 'HS256', kid }).sign(key)
}

function usual({ url }: Issuer): JWTPayload {
  return { iss: url, aud: AUDIENCE, sub: 'alice', scope: SCOPE, exp: secondsFromNow(300) }
}

/** Signed by a key that the header brings along or points at. */
function withOwnKey(
  header: (other: Issuer, jwk: object) => NonNullable<Signing['header']>,
): Signer {
  return async ({ issuer, other }) => {
    const key = await createKey('ES256', issuer.key().kid)
    const { d: _, ...jwk } = await exportJWK(key.privateKey)
    return issuer.sign({ key, header: header(other, jwk) })
  }
}
