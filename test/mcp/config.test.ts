import { describe, expect, it } from 'vitest'
import { parseNodeConfig } from '../../haproxy-compat/node-config.ts'
import { isLoopback, parseConfig } from '../../mcp/config.ts'

const HASH = 'a1'.repeat(32)
const JWT = {
  JWT_ISSUER: 'https://issuer.example',
  JWT_JWKS_URL: 'https://issuer.example/keys',
  PUBLIC_URL: 'https://mcp.example/mcp',
}

describe('settings', () => {
  it.each([
    ['AUTH_TOKENS', `ann:${HASH.slice(2)}`],
    ['AUTH_TOKENS', `ann:${HASH}a1`],
    ['AUTH_TOKENS', `ann:${HASH.toUpperCase()}`],
    ['AUTH_TOKENS', `ann:${HASH.replace('a', 'g')}`],
    ['AUTH_TOKENS', `ann:${HASH}:`],
    ['AUTH_TOKENS', `:${HASH}`],
    ['AUTH_TOKENS', HASH],
    ['AUTH_TOKENS', 'ann:the-token-itself'],
    ['AUTH_TOKENS', `an n:${HASH}`],
    ['AUTH_TOKENS', `${'n'.repeat(65)}:${HASH}`],
    ['AUTH_TOKENS', `ann:${HASH},ben`],
    ['AUTH_TOKENS', `ann:${HASH};ben:${HASH}`],
    ['JWT_ISSUER', 'issuer.example'],
    ['JWT_ISSUER', 'http://issuer.example'],
    ['JWT_ISSUER', 'http://localhost.issuer.example'],
    ['JWT_ISSUER', 'ftp://localhost'],
    ['JWT_JWKS_URL', 'http://issuer.example/keys'],
    ['JWT_JWKS_URL', 'http://localhost@issuer.example/keys'],
    ['JWT_JWKS_URL', 'file:///keys'],
    ['PUBLIC_URL', 'http://mcp.example/mcp'],
    ['PUBLIC_URL', '/mcp'],
    ['JWT_ALGORITHMS', 'none'],
    ['JWT_ALGORITHMS', 'HS256'],
    ['JWT_ALGORITHMS', 'RS256,HS512'],
    ['JWT_ALGORITHMS', 'rs256'],
    ['ALLOW_ANONYMOUS', 'yes'],
    ['ALLOW_ANONYMOUS', 'true'],
    ['ADMIN_SCOPE', 'two words'],
    ['SESSIONS', 'no'],
    ['SESSION_TTL_SECONDS', '-1'],
    ['SESSION_TTL_SECONDS', '0'],
    ['SESSION_TTL_SECONDS', 'Infinity'],
    ['SESSION_TTL_SECONDS', '1e9'],
    ['REPLY_RETENTION_SECONDS', '0.0001'],
    ['KEEP_ALIVE_SECONDS', '1e9'],
    ['QUICK_REPLY_MS', '1e12'],
    ['STREAM_RETRY_MS', '0.5'],
    ['MAX_BODY_BYTES', '1.5'],
    ['ALLOWED_HOSTS', 'https://mcp.example'],
    ['ALLOWED_HOSTS', 'mcp.example/mcp'],
    ['ALLOWED_HOSTS', 'localhost, mcp.example:8080'],
    ['ALLOWED_HOSTS', '::1'],
    ['ALLOWED_HOSTS', '*'],
    ['ALLOWED_ORIGINS', 'app.example'],
    ['ALLOWED_ORIGINS', 'https://app.example/'],
    ['ALLOWED_ORIGINS', 'https://app.example,null'],
  ])('that can’t be used are named: %s=%s', (name, value) => {
    const messageOf = (): string => messageFrom(() => parseConfig({ ...JWT, [name]: value }))
    expect(messageOf()).toMatch(new RegExp(`^Cannot use settings:\n${name}\\b`))
    // It may be a secret that has got to the wrong place.
    expect(messageOf()).not.toContain('the-token-itself')
    expect(messageOf()).not.toContain(HASH)
  })

  it.each([
    ['PORT', '70000'],
    ['SESSION_SECRET', 'too short'],
    ['SESSION_SECRET', `${HASH},`],
    ['SESSION_SECRET', `,${HASH}`],
    ['SESSION_SECRET', `${HASH}, ,${HASH}`],
    ['SESSION_SECRET', `${HASH},too short`],
    ['REDIS_URL', 'redis'],
    ['LIVE_IDLE_SECONDS', '1e9'],
    ['DRAIN_SECONDS', 'Infinity'],
    ['STOP_SECONDS', '1e9'],
    ['ROUTER_KEY_HEADER', 'holdfast request'],
    ['CLIENT_ADDRESS_HEADER', 'x-forwarded-for:'],
  ])('of an instance are named as well: %s=%s', (name, value) => {
    const message = messageFrom(() => parseNodeConfig({ [name]: value }))
    expect(message).toMatch(new RegExp(`^Cannot use settings:\n${name}\\b`))
  })

  it('name times in whole milliseconds, up to a year', () => {
    expect(parseConfig({ SESSION_TTL_SECONDS: '2.0006' }).ttlMs).toBe(2001)
    expect(parseConfig({ SESSION_TTL_SECONDS: '31536000' }).ttlMs).toBe(31_536_000_000)
    const times = parseNodeConfig({ DRAIN_SECONDS: '0', STOP_SECONDS: '0' })
    expect(times).toMatchObject({ drainMs: 0, stopMs: 0 })
    expect(messageFrom(() => parseNodeConfig({ STOP_SECONDS: '1e9' }))).toContain('a year or less')
  })

  it('name hosts and origins as requests do', () => {
    const { allowed } = parseConfig({
      ALLOWED_HOSTS: 'MCP.example, *.mcp.example,[::1]',
      ALLOWED_ORIGINS: 'https://App.example:8443, chrome-extension://abc',
    })
    expect(allowed.hosts).toEqual(['mcp.example', '*.mcp.example', '[::1]'])
    expect(allowed.origins).toEqual(['https://app.example:8443', 'chrome-extension://abc'])
  })

  it('may be several secrets, with spaces between', () => {
    const { secrets } = parseNodeConfig({ SESSION_SECRET: ` ${HASH} , the one before it` })
    expect(secrets).toEqual([HASH, 'the one before it'])
  })

  it('are named all at once', () => {
    const message = messageFrom(() => parseConfig({ SESSIONS: 'x', JWT_ISSUER: 'x' }))
    expect(message.split('\n').map((line) => line.split(':')[0])).toEqual([
      'Cannot use settings',
      'JWT_ISSUER',
      'SESSIONS',
    ])
  })

  it.each(['JWT_JWKS_URL', 'PUBLIC_URL'])('of an issuer are not enough without %s', (name) => {
    const message = messageFrom(() => parseConfig({ ...JWT, [name]: '' }))
    expect(message).toContain('JWT_ISSUER needs JWT_JWKS_URL and PUBLIC_URL')
  })

  it('that are empty are not there', () => {
    const names = [...Object.keys(JWT), 'AUTH_TOKENS', 'ALLOW_ANONYMOUS', 'SESSION_TTL_SECONDS']
    const empty = Object.fromEntries(names.map((name) => [name, '']))
    expect(parseConfig(empty)).toEqual(parseConfig({}))
    expect(parseConfig({})).toMatchObject({ allowAnonymous: false, auth: undefined })
    expect(parseNodeConfig({ HOST: '', PORT: '' })).toMatchObject({ host: '127.0.0.1' })
  })
})

describe('who may say who callers are', () => {
  it('is an issuer with all that is needed', () => {
    expect(parseConfig(JWT).auth).toEqual({
      tokens: [],
      requiredScope: undefined,
      adminScope: 'holdfast:admin',
      jwt: {
        issuer: JWT.JWT_ISSUER,
        audience: JWT.PUBLIC_URL,
        jwksUrl: new URL(JWT.JWT_JWKS_URL),
        algorithms: ['RS256', 'ES256', 'EdDSA'],
        publicUrl: JWT.PUBLIC_URL,
      },
    })
    expect(parseConfig({ ...JWT, JWT_AUDIENCE: 'me' }).auth?.jwt?.audience).toBe('me')
  })

  it('are static tokens, of one caller or several', () => {
    const text = `ann:${HASH}:read write, ben@mcp.example:${HASH},`
    const { tokens = [] } = parseConfig({ AUTH_TOKENS: text }).auth ?? {}
    const hash = Uint8Array.from({ length: 32 }, () => 0xa1)
    expect(tokens).toMatchObject([
      { name: 'ann', hash, scopes: ['read', 'write'] },
      { name: 'ben@mcp.example', hash },
    ])
  })

  it('takes scopes as they are written elsewhere', () => {
    const { tokens = [] } =
      parseConfig({ AUTH_TOKENS: `ann:${HASH}:mcp:read mcp:write` }).auth ?? {}
    expect(tokens).toMatchObject([{ scopes: ['mcp:read', 'mcp:write'] }])
  })

  it('is nobody only if nothing is said of it', () => {
    const { JWT_ISSUER: _, ...others } = JWT
    const message = messageFrom(() => parseConfig(others))
    expect(message).toContain('JWT_ISSUER')
  })

  it.each(['localhost', '127.0.0.1', '127.1.2.3', '::1', '[::1]'])(
    'is on this machine at %s',
    (host) => {
      expect(isLoopback(host)).toBe(true)
    },
  )

  it.each(['', '0.0.0.0', '::', 'localhost.example', '127.0.0.1.example', '128.0.0.1', '[::]'])(
    'is not known to be on this machine at "%s"',
    (host) => {
      expect(isLoopback(host)).toBe(false)
    },
  )
})

function messageFrom(act: () => unknown): string {
  try {
    act()
  } catch (error) {
    return error instanceof Error ? error.message : String(error)
  }
  return ''
}
