import { describe, expect, it } from 'vitest'
import { parseNodeConfig } from '../../haproxy-compat/node-config.ts'
import { parseRedisUrl } from '../../haproxy-compat/redis-place.ts'

const plain = { tls: false }

describe('REDIS_URL', () => {
  it.each([
    ['redis://127.0.0.1:6379', { kind: 'server', url: 'redis://127.0.0.1:6379' }],
    ['rediss://me:pw@redis/0', { kind: 'server', url: 'rediss://me:pw@redis/0' }],
    [
      'redis+sentinel://me:p%40w%2F:x@a:1,b/main',
      {
        kind: 'sentinel',
        name: 'main',
        nodes: [
          { host: 'a', port: 1 },
          { host: 'b', port: 26_379 },
        ],
        username: 'me',
        password: 'p@w/:x',
        tls: false,
      },
    ],
    [
      'rediss+cluster://:pw@[::1]:7000,b',
      {
        kind: 'cluster',
        nodes: [
          { host: '::1', port: 7000 },
          { host: 'b', port: 6379 },
        ],
        password: 'pw',
        tls: true,
      },
    ],
    ['redis+cluster://a', { kind: 'cluster', nodes: [{ host: 'a', port: 6379 }], ...plain }],
  ])('%s says where Redis is', (url, place) => {
    expect(parseRedisUrl(url)).toEqual(place)
    expect(parseNodeConfig({ REDIS_URL: url }).redis).toMatchObject({ place, replicas: 0 })
  })

  it.each([
    ['http://a', 'REDIS_URL: not redis://, redis+sentinel:// or redis+cluster:// with a host'],
    ['redis+sentinel://a:1', 'behind the hosts there must be the name of the master: /name'],
    ['redis+sentinel://a:1/', 'behind the hosts there must be the name of the master: /name'],
    ['redis+cluster://a:1/0', 'a cluster has no name and one database'],
    ['redis+cluster://a:1,,b', 'host 2 is no name or address and port'],
    ['redis+cluster://a:99999', 'host 1 is no name or address and port'],
    ['redis+cluster://me:pw@', 'not redis://'],
  ])('%s is refused', (url, why) => {
    expect(() => parseNodeConfig({ REDIS_URL: url })).toThrow(why)
  })

  it('never appears in a refusal with its password', () => {
    const hosts = [
      'me:secret@a:b',
      'me:secret',
      'me:secret/more@a',
      'me:more@secret@a',
      'me:%secret@a',
    ]
    for (const url of hosts.map((host) => `redis+cluster://${host}`)) {
      expect(() => parseNodeConfig({ REDIS_URL: url })).toThrow(/^(?!.*secret)/s)
    }
  })
})

describe('waiting for replicas', () => {
  it.each(['-1', '17', 'two'])('takes no %s of them', (count) => {
    const settings = { REDIS_URL: 'redis://a', REDIS_WAIT_REPLICAS: count }
    expect(() => parseNodeConfig(settings)).toThrow('REDIS_WAIT_REPLICAS')
  })

  it('never takes longer than a command may', () => {
    const settings = { REDIS_URL: 'redis://a', REDIS_WAIT_MS: '501' }
    expect(() => parseNodeConfig(settings)).toThrow('REDIS_WAIT_MS')
  })
})
