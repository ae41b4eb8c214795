import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { checkHaproxy } from '../../cli/checks/haproxy.ts'
import { checkRedis } from '../../cli/checks/redis.ts'
import { checkServer } from '../../cli/checks/server.ts'
import { checkSettings } from '../../cli/checks/settings.ts'
import { checkWorker } from '../../cli/checks/worker.ts'
import { isAtLeast, type Check, type Finding } from '../../cli/findings.ts'
import { createRemoteOperator } from '../../cli/remote-operator.ts'
import { requireProgram } from '../../haproxy-compat/programs.ts'
import { until } from '../support/mcp.ts'
import { freePort } from '../support/ports.ts'
import { clientOf, startRedis, type RedisServer } from '../support/redis.ts'
import { holdfast, type Env } from './support.ts'

let folder: string
let redis: RedisServer

beforeAll(async () => {
  requireProgram('haproxy')
  folder = mkdtempSync(join(tmpdir(), 'holdfast-doctor-'))
  redis = await startRedis()
})
afterAll(async () => {
  await redis.stop()
  rmSync(folder, { recursive: true })
})

const PATH = process.env['PATH']

async function run(check: Check, env: Env = {}): Promise<readonly Finding[]> {
  return check({ url: 'http://localhost:2', env: { PATH, ...env }, folder })
}

/** What is not as it should be. */
async function wrong(check: Check, env: Env = {}): Promise<readonly string[]> {
  const findings = await run(check, env)
  return findings.flatMap(({ kind, text }) => (kind === 'ok' ? [] : `${kind}: ${text}`))
}

describe('the doctor on HAProxy', () => {
  const shipped = readFileSync('haproxy-compat/haproxy.cfg', 'utf8')
  const servers = { SERVER_1: '127.0.0.1:1', SERVER_2: '127.0.0.1:2', SERVER_3: '127.0.0.1:3' }
  const edited = async (
    edit: (text: string) => string,
    env: Env = {},
  ): Promise<readonly string[]> => {
    const file = join(folder, 'haproxy.cfg')
    const text = edit(shipped)
    expect(text === shipped).toBe(false)
    writeFileSync(file, text)
    return wrong(checkHaproxy, { HAPROXY_CONFIG: file, ...servers, ...env })
  }

  it('is content with what is shipped', async () => {
    expect(await wrong(checkHaproxy, servers)).toEqual([])
  })

  it('compares the stick table with how long sessions live', async () => {
    const ttl = await wrong(checkHaproxy, { ...servers, SESSION_TTL_SECONDS: '3600' })
    expect(ttl).toEqual([
      expect.stringMatching(/^problem: .*backend mcp.*expire 30m.*set it to 3600s/),
    ])
    expect(await edited((text) => text.replace('expire 30m', 'expire 1800s'))).toEqual([])
    expect(await edited((text) => text.replace('expire 30m', 'expire 1800000'))).toEqual([])
    expect(await edited((text) => text.replace(' expire 30m', ''))).toEqual([
      expect.stringMatching(/^problem: .*has no expire/),
    ])
  })

  it('finds a stick table that is in a backend of its own', async () => {
    const apart = (text: string): string => {
      const [table = ''] = /^ {2}stick-table type binary .*\n/m.exec(text) ?? []
      const named = text.replace(table, '').replaceAll(/^ {2}stick \S+ \S+/gm, '$& table sessions')
      return `${named.replaceAll('table sessions table mcp', 'table sessions')}\nbackend sessions\n${table}`
    }
    expect(await edited(apart)).toEqual([])
    expect(await edited((text) => apart(text).replace('expire 30m', 'expire 5m'))).toEqual([
      expect.stringMatching(/^problem: .*backend sessions.*expire 5m/),
    ])
  })

  it.each([
    ['server', '15s', 'problem'],
    ['server', '20s', 'warning'],
    ['server', '46s', undefined],
    ['client', '14000', 'problem'],
    ['tunnel', '1m', undefined],
  ])('finds "timeout %s %s" a %s', async (side, value, kind) => {
    const found = await edited((text) =>
      text.replace(new RegExp(`timeout ${side} \\S+`), `timeout ${side} ${value}`),
    )
    expect(found.map((line) => line.split(':')[0])).toEqual(kind === undefined ? [] : [kind])
  })

  it('misses a timeout that is not there, and takes the shortest of several', async () => {
    expect(await edited((text) => text.replace(/timeout tunnel .*/, ''))).toEqual([
      expect.stringMatching(/^warning: there is no "timeout tunnel"/),
    ])
    const shorter = (text: string): string =>
      text.replace('backend mcp\n', 'backend mcp\n  timeout server 10s\n')
    expect(await edited(shorter)).toEqual([expect.stringMatching(/^problem: "timeout server 10s"/)])
  })

  it('hands on what HAProxy says of its file', async () => {
    const [found = '', ...more] = await edited((text) => text.replace('balance', 'blance'))
    expect(more).toEqual([])
    expect(found).toMatch(/^problem: \d+\.\d+.* does not take .*haproxy\.cfg: .*'blance'/)
    expect(await wrong(checkHaproxy, { HAPROXY_CONFIG: '/nowhere' })).toEqual([
      'problem: there is no /nowhere: see HAPROXY_CONFIG',
    ])
    expect(await wrong(checkHaproxy, { ...servers, PATH: '/nowhere' })).toEqual([
      expect.stringMatching(/^warning: it is not installed here/),
    ])
  })
})

describe('the doctor on a server', () => {
  it.each([
    ['fleet', '3 sessions; ready instances: 0'],
    ['edge', '3 sessions'],
  ] as const)('counts what there is: %s', async (topology, line) => {
    const server = createServer((_request, response) => void response.end('{}'))
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    onTestFinished(() => void server.close())
    const { port } = server.address() as AddressInfo
    const sessions = { total: 3, latest: [] }
    const overview = { at: 0, topology, sessions, instances: [], failovers: [] }
    const operator = { ...createRemoteOperator('', undefined), overview: async () => overview }
    const found = await checkServer(operator)({ url: `http://127.0.0.1:${port}`, env: {}, folder })
    expect(found.at(-1)).toMatchObject({ kind: 'ok', text: line })
  })
})

describe('the doctor on settings', () => {
  const SECRET = { SESSION_SECRET: 'a secret of some length' }
  const REDIS = { REDIS_URL: 'redis://127.0.0.1' }

  it.each<[string, Env, readonly string[]]>([
    ['nothing', {}, []],
    ['a fleet', { ...REDIS, ...SECRET }, []],
    ['a fleet without a secret', REDIS, ['problem: SESSION_SECRET is not set']],
    [
      'a secret that is short',
      { ...REDIS, SESSION_SECRET: 'short' },
      ['problem: SESSION_SECRET: '],
    ],
    [
      'what is no setting',
      { SESSIONS: 'maybe', PORT: 'x' },
      ['problem: SESSIONS', 'problem: PORT'],
    ],
    ['everybody on the network', { HOST: '0.0.0.0' }, ['problem: HOST=0.0.0.0']],
    ['everybody, as is meant', { HOST: '0.0.0.0', ALLOW_ANONYMOUS: '1' }, ['warning: ALLOW_ANON']],
    ['tokens', { HOST: '0.0.0.0', AUTH_TOKENS: `ann:${'a1'.repeat(32)}` }, []],
  ])('judges %s', async (_name, env, expected) => {
    const found = await wrong(checkSettings, env)
    const here = expected.map((start) => start.replace(': ', ': in this shell: '))
    expect(found).toEqual(here.map((start) => expect.stringContaining(start)))
    for (const line of found) expect(line).not.toMatch(/a secret of some|short$|a1a1/)
  })
})

describe('the doctor on Redis', () => {
  const check = (REDIS_URL: string): Promise<readonly string[]> => wrong(checkRedis, { REDIS_URL })

  it('finds one that forgets, or throws away', async () => {
    const client = await clientOf(redis.url)
    await client.configSet({ 'maxmemory-policy': 'allkeys-lru', maxmemory: '100mb' })
    expect(await check(redis.url)).toEqual([
      expect.stringMatching(/^problem: appendonly is no/),
      expect.stringMatching(/^problem: maxmemory-policy is allkeys-lru/),
    ])
    await client.configSet({ 'maxmemory-policy': 'noeviction', appendonly: 'yes' })
    expect(await check(redis.url)).toEqual([
      expect.stringMatching(/^warning: appendfsync is every/),
    ])
    await client.configSet('appendfsync', 'always')
    expect(await check(redis.url)).toEqual([])
    client.destroy()
  })

  it('says what its user may not see, and shows no password', async () => {
    const client = await clientOf(redis.url)
    await client.aclSetUser('few', ['on', '>sesame', '+ping'])
    client.destroy()
    const { host } = new URL(redis.url)
    const findings = await run(checkRedis, { REDIS_URL: `redis://few:sesame@${host}` })
    expect(findings.map(({ kind }) => kind)).toEqual(['ok', 'ok', 'warning'])
    const refused = await check(`redis://few:barley@${host}`)
    expect(refused).toEqual([expect.stringMatching(/^problem: 127.*WRONGPASS/)])
    expect(JSON.stringify([findings, refused])).not.toMatch(/sesame|barley/)
  })

  it('asks the members of a cluster, and Sentinels for their master', async () => {
    const { host, port } = new URL(redis.url)
    const cluster = await run(checkRedis, { REDIS_URL: `redis+cluster://${host},127.0.0.1:2` })
    expect(cluster.map(({ text }) => text)).toEqual(
      expect.arrayContaining([
        `${host} answers`,
        expect.stringMatching(/^127\.0\.0\.1:2: .*ECONNREF/),
      ]),
    )
    expect(await check(`redis+sentinel://${host}/fleet`)).toEqual([
      expect.stringMatching(/^problem: Sentinel .*unknown command/),
    ])

    const file = join(folder, 'sentinel.conf')
    const own = await freePort()
    writeFileSync(file, `port ${own}\nsentinel monitor fleet 127.0.0.1 ${port} 1\n`)
    const sentinel = spawn('redis-server', [file, '--sentinel'], { stdio: 'ignore' })
    onTestFinished(() => void sentinel.kill('SIGKILL'))
    const behind = (name: string, login = '') =>
      run(checkRedis, { REDIS_URL: `redis+sentinel://${login}127.0.0.1:${own}/${name}` })
    const found = await until(
      () => behind('fleet'),
      ([first]) => first?.kind === 'ok',
    )
    expect(found.map(({ text }) => text)).toEqual(
      expect.arrayContaining([`Sentinel 127.0.0.1:${own} knows the master`, `${host} answers`]),
    )
    const [known, refused] = await behind('fleet', 'few:barley@')
    expect(known).toMatchObject({ kind: 'ok' })
    expect(refused?.text).toMatch(/^127.*WRONGPASS/)
    expect((await behind('fleat')).map(({ text }) => text)).toEqual([
      `Sentinel 127.0.0.1:${own} knows no master "fleat"`,
    ])
  })

  it('finds none that is not there', async () => {
    expect(await check('redis://127.0.0.1:2')).toEqual([
      expect.stringMatching(/^problem: 127\.0\.0\.1:2: .*ECONNREFUSED/),
    ])
  })
})

describe('the doctor on a Worker', () => {
  const shipped = readFileSync('wrangler.toml', 'utf8')
  const edited = async (edit: (text: string) => string): Promise<readonly string[]> => {
    writeFileSync(join(folder, 'wrangler.toml'), edit(shipped))
    return wrong(checkWorker)
  }

  it('says nothing where there is none', async () => {
    rmSync(join(folder, 'wrangler.toml'), { force: true })
    expect(await run(checkWorker)).toEqual([])
  })

  it('says what is missing before it is deployed', async () => {
    expect(await edited((text) => text)).toEqual([
      expect.stringMatching(/^warning: nothing in vars says who may call/),
    ])
    const worse = await edited((text) =>
      text
        .replace(/compatibility_date = .*/, 'compatibility_date = "2024-01-01"')
        .replace(/compatibility_flags = .*/, '')
        .replace(/ {2}\{ name = "INDEX".*/, '')
        .replace(/ALLOWED_HOSTS = .*/, 'ALLOWED_HOSTS = "localhost"\nALLOW_ANONYMOUS = "1"')
        .replace('name = "OPENING"', 'name = "OTHER"'),
    )
    expect(worse).toEqual([
      expect.stringMatching(/^problem: compatibility_date is 2024-01-01/),
      expect.stringMatching(/^problem: compatibility_flags lacks enable_request_signal/),
      expect.stringMatching(/^problem: durable_objects.bindings lacks INDEX/),
      expect.stringMatching(/^warning: there is no rate limit OPENING/),
      expect.stringMatching(/^problem: ALLOWED_HOSTS has this machine alone/),
    ])
    expect(await edited(() => 'name = ')).toEqual([
      expect.stringMatching(/^problem: wrangler.toml can't be read: /),
    ])
  })
})

describe('holdfast doctor', () => {
  it('ends with 1 on a problem, and counts what it found', async () => {
    const { code, stdout } = await holdfast(['doctor'], { HOLDFAST_URL: 'http://127.0.0.1:2' })
    expect(code).toBe(1)
    expect(stdout).toMatch(/^problem {2}server {5}http:\/\/127\.0\.0\.1:2 does not answer/m)
    expect(stdout).toMatch(/\n1 problem, 0 warnings\n$/)
  })

  it('knows which version is the later one', () => {
    expect(['7.0.15', '7', '10.1', '7.0.0-rc1'].map((found) => isAtLeast(found, '7.0'))).toEqual([
      true,
      true,
      true,
      true,
    ])
    expect(['6.9.9', '2', 'unknown'].map((found) => isAtLeast(found, '7.0'))).toEqual([
      false,
      false,
      false,
    ])
  })
})
