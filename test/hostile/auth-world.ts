import { callTool, openSession, post, type Fetch } from '../support/mcp.ts'
import { bearing, hashed } from './auth-callers.ts'
import { createKey, SCOPE, startIssuer, type Issuer, type IssuerKey } from './issuer.ts'
import { START, type Topology, type TopologyName } from './topologies.ts'

export const STATIC_TOKEN = 'a-token-that-does-not-change'

/** Who is believed, and who would like to be. */
export interface Issuers {
  /** Shows an ES256, an RSA and an EdDSA key. */
  readonly issuer: Issuer
  readonly other: Issuer
  readonly rsa: IssuerKey
  readonly ed: IssuerKey
}

/** A server that asks for tokens, and whose they are. */
export interface World extends Issuers {
  readonly server: Topology
  /** Its caller has a session, as soon as the keys are known. */
  readonly owner: () => Promise<Fetch>
  readonly session: () => Promise<string>
  /** The status of a request that is answered 200 if its caller is let in. */
  readonly knock: (token: string) => Promise<Response>
  readonly stop: () => Promise<unknown>
}

/** Its issuer does not listen yet. */
export async function createWorld(name: TopologyName): Promise<World> {
  const [issuer, other] = await Promise.all([startIssuer(), startIssuer()])
  const [rsa, ed] = await Promise.all([createKey('RS256'), createKey('EdDSA')])
  for (const key of [rsa, ed]) issuer.publish(key)
  await issuer.stop()
  const tokens = hashed('ci', STATIC_TOKEN, SCOPE)
  const server = await START[name]({ ...issuer.settings, AUTH_TOKENS: tokens })
  const owner = async () => bearing(server.fetch, await issuer.sign())
  let session: Promise<string> | undefined
  return {
    issuer,
    other,
    rsa,
    ed,
    server,
    owner,
    session: () => (session ??= owner().then(openSession)),
    knock: (token) => knock(bearing(server.fetch, token)),
    stop: () => Promise.all([server.stop(), issuer.stop(), other.stop()]),
  }
}

const PING = JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'ping' })

/** Asks for a session that there can't be, which takes no store: who is let in is told so. */
async function knock(fetch: Fetch): Promise<Response> {
  const response = await fetch(post(PING, { 'mcp-session-id': 'none' }))
  await response.text()
  return response.status === 404 ? new Response() : response
}

/** What the owner of the session sees. */
export async function stateOf({ owner, session }: World): Promise<object> {
  const [fetch, id] = [await owner(), await session()]
  const { counter } = await callTool(fetch, id, 'get_counter')
  const { notes } = await callTool(fetch, id, 'list_notes')
  return { counter, notes }
}
