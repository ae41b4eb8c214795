import { once } from 'node:events'
import { createServer, type ServerResponse } from 'node:http'
import {
  exportJWK,
  exportSPKI,
  generateKeyPair,
  SignJWT,
  type CryptoKey,
  type JWK,
  type JWTHeaderParameters,
  type JWTPayload,
} from 'jose'
import { freePort } from '../support/ports.ts'

export const AUDIENCE = 'https://mcp.example/mcp'
export const SCOPE = 'mcp'

/** How it answers who asks for its keys. */
export type Manner = 'well' | 'failing' | 'huge' | 'malformed' | 'not keys' | 'redirecting' | 'slow'

/** One of its keys. */
export interface IssuerKey {
  readonly kid: string
  readonly alg: string
  readonly privateKey: CryptoKey
  readonly jwk: JWK
  readonly pem: string
}

export interface Signing {
  readonly key?: IssuerKey
  /** In place of its usual ones; `undefined` leaves one out. */
  readonly claims?: JWTPayload
  /** Beside the usual ones, or in their place. */
  readonly header?: Partial<JWTHeaderParameters>
}

/** Says who somebody is: shows its keys, and signs with them. */
export interface Issuer {
  readonly url: string
  readonly jwksUrl: string
  /** The settings of a server that believes it. */
  readonly settings: Record<string, string>
  /** The key that it signs with. */
  readonly key: () => IssuerKey
  readonly sign: (signing?: Signing) => Promise<string>
  readonly publish: (key: IssuerKey) => void
  readonly withdraw: (key: IssuerKey) => void
  /** Signs with this one from now on. */
  readonly use: (key: IssuerKey) => void
  /** From now on. What is slow now is answered then. */
  readonly behave: (manner: Manner) => void
  /** How often it was asked for its keys, and for anything else. */
  readonly asked: () => { readonly keys: number; readonly others: number }
  /** Nothing listens there any more. */
  readonly stop: () => Promise<void>
  readonly start: () => Promise<void>
}

/** On this machine, with one key shown. */
export async function startIssuer(alg = 'ES256'): Promise<Issuer> {
  const port = await freePort()
  const url = `http://127.0.0.1:${port}`
  const jwksUrl = `${url}/keys`
  const first = await createKey(alg)
  const site = createSite(port, first)
  await site.start()
  let key = first
  return {
    ...site,
    url,
    jwksUrl,
    settings: {
      JWT_ISSUER: url,
      JWT_JWKS_URL: jwksUrl,
      PUBLIC_URL: AUDIENCE,
      REQUIRED_SCOPE: SCOPE,
    },
    key: () => key,
    use: (next) => void (key = next),
    sign: (signing = {}) => sign({ key, ...signing }, url),
  }
}

let made = 0

export async function createKey(alg: string, kid = `key-${++made}`): Promise<IssuerKey> {
  const { privateKey, publicKey } = await generateKeyPair(alg, { extractable: true })
  const jwk = { ...(await exportJWK(publicKey)), kid }
  return { kid, alg, privateKey, jwk, pem: await exportSPKI(publicKey) }
}

export function secondsFromNow(seconds: number): number {
  return Math.floor(Date.now() / 1000) + seconds
}

/** Where the keys are. What is asked for is counted. */
function createSite(port: number, first: IssuerKey) {
  const shown = new Set([first])
  const waiting = new Set<ServerResponse>()
  const counted = { keys: 0, others: 0 }
  let manner: Manner = 'well'
  const answer = (response: ServerResponse): void => answerAs(manner, response, keysOf(shown))
  const server = createServer(({ url }, response) => {
    const isForKeys = url === '/keys'
    counted[isForKeys ? 'keys' : 'others']++
    // Where it redirects to the keys can be had.
    if (!isForKeys) return answerAs('well', response, keysOf(shown))
    if (manner !== 'slow') return answer(response)
    waiting.add(response)
    response.once('close', () => waiting.delete(response))
  })
  return {
    publish: (key: IssuerKey) => void shown.add(key),
    withdraw: (key: IssuerKey) => void shown.delete(key),
    asked: () => ({ ...counted }),
    behave(next: Manner) {
      manner = next
      for (const response of waiting) answer(response)
      waiting.clear()
    },
    async start() {
      if (server.listening) return
      server.listen(port, '127.0.0.1')
      await once(server, 'listening')
    },
    async stop() {
      if (!server.listening) return
      server.close()
      server.closeAllConnections()
      await once(server, 'close')
    },
  }
}

function keysOf(shown: ReadonlySet<IssuerKey>): object {
  return { keys: [...shown].map(({ jwk }) => jwk) }
}

const HUGE = 300 * 1024

function answerAs(manner: Manner, response: ServerResponse, keys: object): void {
  const text = JSON.stringify(keys)
  const bodies: Partial<Record<Manner, string>> = {
    malformed: text.slice(0, -1),
    'not keys': '{"keys":5}',
    // These would do, but for their size.
    huge: JSON.stringify({ ...keys, more: 'x'.repeat(HUGE) }),
  }
  const status = manner === 'failing' ? 500 : manner === 'redirecting' ? 302 : 200
  // Who keeps a connection finds it closed when the issuer stops, which is not what is looked at.
  const type = { 'content-type': 'application/json', connection: 'close' }
  response.writeHead(status, status === 302 ? { ...type, location: '/moved' } : type)
  response.end(bodies[manner] ?? text)
}

function sign({ key, claims, header }: Signing & { key: IssuerKey }, issuer: string) {
  const usual = { iss: issuer, aud: AUDIENCE, sub: 'alice', scope: SCOPE, exp: secondsFromNow(300) }
  return new SignJWT({ ...usual, ...claims })
    .setProtectedHeader({ alg: key.alg, kid: key.kid, ...header })
    .sign(key.privateKey)
}
