/** Where a Redis is, as `REDIS_URL` says it. */
export type RedisPlace =
  /** One that stays where it is. */
  | { readonly kind: 'server'; readonly url: string }
  /** One of several, and these tell which. */
  | ({ readonly kind: 'sentinel'; readonly name: string } & Several)
  /** Several that each have a part of the keys; these tell where the others are. */
  | ({ readonly kind: 'cluster' } & Several)

export interface Several extends Login {
  readonly nodes: readonly [Address, ...Address[]]
}

export interface Login {
  readonly tls: boolean
  readonly username?: string
  readonly password?: string
}

export interface Address {
  readonly host: string
  readonly port: number
}

// scheme ://  user : password @  hosts  / name
const FORM = /^(rediss?)\+(sentinel|cluster):\/\/(?:([^@/]*)@)?([^@/]+)(?:\/([^/]*))?$/
const DEFAULT_PORT = { sentinel: 26_379, cluster: 6379 }

/**
 *     redis://user:password@host:6379
 *     redis+sentinel://user:password@host:26379,host2:26379/name
 *     redis+cluster://user:password@host:6379,host2:6379
 *
 * With `rediss` it is the same over TLS. Throws with what is wrong.
 */
export function parseRedisUrl(text: string): RedisPlace {
  if (/^rediss?:\/\//.test(text) && URL.canParse(text)) return { kind: 'server', url: text }
  const [, scheme, kind, login = '', hosts = '', name = ''] = FORM.exec(text) ?? []
  if (kind !== 'sentinel' && kind !== 'cluster') {
    throw new Error('not redis://, redis+sentinel:// or redis+cluster:// with a host')
  }
  const nodes = hosts.split(',').map((host, at) => {
    const address = parseAddress(host, DEFAULT_PORT[kind])
    // Not what is there: it may be of a password.
    if (address === undefined) throw new Error(`host ${at + 1} is no name or address and port`)
    return address
  })
  const [first, ...others] = nodes
  if (first === undefined) throw new Error('no host')
  const several = {
    nodes: [first, ...others],
    tls: scheme === 'rediss',
    ...parseLogin(login),
  } as const
  if (kind === 'sentinel') {
    if (name === '') throw new Error('behind the hosts there must be the name of the master: /name')
    return { kind, name: decodeURIComponent(name), ...several }
  }
  if (name !== '') throw new Error('a cluster has no name and one database')
  return { kind, ...several }
}

export function nameOf({ host, port }: Address): string {
  return `${host}:${port}`
}

function parseAddress(text: string, defaultPort: number): Address | undefined {
  const [, v6, name = v6, digits] =
    /^(?:\[([0-9a-f:.]+)\]|([^:[\]]+))(?::(\d+))?$/i.exec(text) ?? []
  const port = digits === undefined ? defaultPort : Number(digits)
  return name === undefined || port < 1 || port > 65_535 ? undefined : { host: name, port }
}

function parseLogin(text: string): Pick<Login, 'username' | 'password'> {
  if (text === '') return {}
  const [username = '', ...rest] = text.split(':')
  const password = decodeURIComponent(rest.join(':'))
  return { ...(username !== '' && { username: decodeURIComponent(username) }), password }
}
