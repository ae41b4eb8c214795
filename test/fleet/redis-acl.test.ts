/** Who may do what in the fleet's Redis: `redis-users.acl`, and the passwords that `fleet.ts` makes. */
import { globSync, readFileSync, statSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import type { RedisClientType } from '@redis/client'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { get, speakingCall } from '../support/client.ts'
import { fetchFrom, startFleet, type Fleet } from '../support/fleet.ts'
import {
  callTool,
  collect,
  endSession,
  openSession,
  readEvents,
  send,
  toolCall,
  until,
} from '../support/mcp.ts'
import { clientOf } from '../support/redis.ts'
import { askTool, openHandle, replyTo, runTool } from '../support/stateless.ts'

const HOME = 'haproxy-compat'
// Of what happens within a script, Redis 7.0 and later ones speak in ways of their own.
const REFUSED = /^(NOPERM |ERR The user executing the script can't |ERR ACL failure in script: )/
const FORBIDDEN = [
  ['CONFIG', 'GET', '*'],
  ['CONFIG', 'SET', 'dir', '/tmp'],
  ['KEYS', '*'],
  ['SCAN', '0'],
  ['RANDOMKEY'],
  ['DBSIZE'],
  ['FLUSHALL'],
  ['FLUSHDB'],
  ['SCRIPT', 'FLUSH'],
  ['SCRIPT', 'LOAD', 'return 1'],
  ['FUNCTION', 'FLUSH'],
  ['ACL', 'LIST'],
  ['ACL', 'WHOAMI'],
  ['CLIENT', 'LIST'],
  ['INFO'],
  ['MONITOR'],
  ['MODULE', 'LIST'],
  ['SHUTDOWN', 'NOSAVE'],
  ['REPLICAOF', 'NO', 'ONE'],
  ['SAVE'],
  ['SELECT', '1'],
  // What it has no use for, even with its own.
  ['HGETALL', 'mcp:{known}:session'],
  ['RENAME', 'mcp:{known}:session', 'mcp:another'],
  ['PSUBSCRIBE', '*'],
  ['SUBSCRIBE', 'mcp:everybody'],
  // What it may do, but to others.
  ['GET', 'other:key'],
  ['DEL', 'other:key'],
  ['HGET', 'other:key', 'begin'],
  ['SSUBSCRIBE', 'other:channel'],
  ['SPUBLISH', 'other:channel', 'text'],
  ['EVAL', "return redis.call('HGET', 'other:key', 'begin')", '0'],
  ['EVAL', 'return 1', '1', 'other:key'],
  ['EVAL', "return redis.call('SPUBLISH', 'other:channel', 'text')", '0'],
  ['EVAL', "return redis.call('KEYS', '*')", '0'],
]

describe('an instance in Redis', () => {
  let fleet: Fleet
  let operator: RedisClientType
  let instance: RedisClientType

  beforeAll(async () => {
    fleet = await startFleet()
    const url = new URL(fleet.map().redis.url)
    operator = await clientOf(url.href)
    url.username = 'holdfast'
    url.password = readFileSync(join(fleet.folder, 'redis-holdfast'), 'utf8')
    instance = await clientOf(url.href)
    await operator.set('other:key', 'of somebody else')
    await operator.hSet('mcp:{known}:session', 'begin', '{}')
  })
  afterAll(async () => {
    for (const client of [operator, instance]) client.destroy()
    await fleet.stop()
  })

  it('may do all that it has to do, and nothing else', async () => {
    for (const part of ['RESETSTAT', 'LOG']) {
      await operator.sendCommand(part === 'LOG' ? ['ACL', 'LOG', 'RESET'] : ['CONFIG', part])
    }
    // The scripts are sent anew, so EVAL is among it.
    await operator.scriptFlush()
    await useAll()
    const ran = await until(commandsRun, (names) => names.has('sunsubscribe') && names.has('zrem'))

    const [, ...rules] = (await permissions()).split(' ')
    const granted = rules.map((rule) => rule.replace(/^\+/, ''))
    const scripted = commandsIn([`${HOME}/*.lua`, `${HOME}/redis-*.ts`])
    expect(granted.filter((name) => !ran.has(name) && !scripted.has(name))).toEqual([])
    // Some come only when something has aged.
    expect([...scripted].filter((name) => !granted.includes(name))).toEqual([])
    expect(await operator.sendCommand(['ACL', 'LOG'])).toEqual([])
  })

  // A subscription that is taken is never answered.
  const patience = { timeout: 5000 }

  it.each(FORBIDDEN.map((command) => ({ command, text: command.join(' ') })))(
    'may not: $text',
    patience,
    async ({ command }) => {
      await expect(instance.sendCommand(command)).rejects.toThrow(REFUSED)
    },
  )

  it('may do so with what is its own', async () => {
    expect(await instance.hGet('mcp:{known}:session', 'begin')).toBe('{}')
    const script = "return redis.call('HGET', KEYS[1], 'begin')"
    expect(await instance.eval(script, { keys: ['mcp:{known}:session'] })).toBe('{}')
  })

  it('is nobody without its password', async () => {
    for (const command of ['PING', 'GET other:key', 'HELLO 3', 'CONFIG GET *', 'EVAL 1 0']) {
      expect(await say(command)).toMatch(/^-NOAUTH /)
    }
    for (const who of ['holdfast', 'default', 'nobody']) {
      for (const password of ['', ' wrong']) {
        expect(await say(`AUTH ${who}${password || ' ""'}`)).toMatch(/^-WRONGPASS /)
      }
    }
  })

  it('shares its secrets with no other account of the machine', () => {
    const files = globSync('**', { cwd: fleet.folder }).map((file) => join(fleet.folder, file))
    const names = ['fleet.json', 'secret', 'redis-holdfast', 'redis-operator', 'redis']
    expect(files).toEqual(expect.arrayContaining(names.map((name) => join(fleet.folder, name))))
    expect(files.filter((file) => (statSync(file).mode & 0o077) !== 0)).toEqual([])
    expect(statSync(join(fleet.folder, 'fleet.json')).mode & 0o777).toBe(0o600)
  })

  /** What makes instances use their store in each of their ways. */
  async function useAll(): Promise<void> {
    const [a, b] = fleet.map().instances.map(({ url }) => fetchFrom(url))
    if (a === undefined || b === undefined) throw new Error('There are no two instances')
    const session = await openSession(a)
    expect(await callTool(a, session, 'increment_counter')).toMatchObject({ counter: 1 })
    expect(await callTool(b, session, 'increment_counter')).toMatchObject({ counter: 2 })
    expect((await callTool(a, session, 'get_server_info'))['sessions']).toBe(1)

    // A call that speaks, followed from its first message on at another instance than it runs on.
    const first = readEvents(await a(speakingCall(session, 'analyze_data', { num_items: 3 })))
    const { value: priming } = await first.next()
    // With its first message all have heard who follows the stream; until then it might be taken for news.
    await first.next()
    const told = await collect(readEvents(await b(get(session, priming?.id))))
    expect(told.at(-1)?.data).toContain('"items_processed":3')
    await collect(first)

    const handle = await openHandle(a)
    expect(await runTool(b, 'increment_counter', { session: handle })).toMatchObject({ counter: 1 })
    expect((await replyTo(await a(askTool('list_notes', { session: handle })))).error).toBe(
      undefined,
    )

    await endSession(b, session)
    expect((await send(a, session, toolCall('get_counter'))).status).toBe(404)
  }

  /** All commands that Redis has run, those in scripts too. */
  async function commandsRun(): Promise<ReadonlySet<string>> {
    const lines = await operator.info('commandstats')
    return new Set(
      [...lines.matchAll(/^cmdstat_(\S+?):calls=[1-9]/gm)].map(([, name = '']) => name),
    )
  }

  /** As Redis lists them: `-@all +ping …`. */
  async function permissions(): Promise<string> {
    const lines = (await operator.sendCommand(['ACL', 'LIST'])) as unknown as string[]
    const user = lines.find((line) => line.startsWith('user holdfast ')) ?? ''
    return user.slice(user.indexOf('-@all'))
  }

  /** One command on a connection of its own that has not said who it is. */
  async function say(command: string): Promise<string> {
    const { hostname, port } = new URL(fleet.map().redis.url)
    const connection = connect(Number(port), hostname)
    connection.write(`${command}\r\n`)
    for await (const chunk of connection) return String(chunk)
    return ''
  }
})

function commandsIn(files: string[]): ReadonlySet<string> {
  const text = globSync(files).map((file) => readFileSync(file, 'utf8'))
  const calls = text.join('\n').matchAll(/redis\.call\('(\w+)'/g)
  return new Set([...calls].map(([, name = '']) => name.toLowerCase()))
}
