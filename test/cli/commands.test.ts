import { execFile } from 'node:child_process'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { promisify } from 'node:util'
import { serve } from '@hono/node-server'
import { Hono } from 'hono'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { parseConfig } from '../../mcp/config.ts'
import { createAdmin } from '../../mcp/http/admin.ts'
import { anonymous } from '../../mcp/http/auth.ts'
import { ServerError } from '../../mcp/errors.ts'
import { errorResponse } from '../../mcp/http/responses.ts'
import type { Happening, Operator, SessionName, SessionView } from '../../mcp/operator.ts'
import { systemClock } from '../../mcp/session/clock.ts'
import { holdfast, type Env, type Ran } from './support.ts'

const NAMES = ['1f00000000000001', '1f00000000000002', '2a00000000000003'] as const
const HOSTILE = 'evil\u001b[2J\u009b1m\u202e name'

const sessions = NAMES.map((name, at) => view(name, at))
const ended: string[] = []
const drained: [string, boolean][] = []
let happenings: readonly Happening[]
let token: string | null
let isLocked = false

const operator: Operator = {
  overview: async () => ({
    at: 100_000,
    topology: 'fleet',
    sessions: { total: 203, latest: sessions },
    instances: [],
    failovers: [],
  }),
  async end(name) {
    ended.push(name)
    return sessions.some((session) => session.name === name)
  },
  async follow(name) {
    if (!sessions.some((session) => session.name === name)) return undefined
    return (async function* () {
      yield* happenings
    })()
  },
  async drain(instance, isDrained) {
    if (instance !== 'mcp-server-1') return false
    drained.push([instance, isDrained])
    return true
  },
}

let env: Env
let server: ReturnType<typeof serve>

beforeAll(async () => {
  const admin = createAdmin({
    operator,
    authenticateOperator: async (request) => {
      token = request.headers.get('authorization')
      if (token === 'Bearer bad' || isLocked) {
        return new Response('{}', { status: 401 })
      }
      if (token === 'Bearer weak') {
        const error = new ServerError('anonymous_forbidden', 'Cannot serve request: its scope')
        return errorResponse(error)
      }
      return anonymous(request)
    },
    allowed: parseConfig({}).allowed,
    clock: systemClock,
    log: () => undefined,
    keepAliveMs: 1000,
  })
  const app = new Hono()
  app.use(async (context, next) => {
    const other = context.req.header('authorization')
    if (other === 'Bearer a page') return context.html('<p>Something else</p>')
    if (other === 'Bearer nothing') return context.notFound()
    return next()
  })
  app.route('/', admin)
  server = serve({ fetch: app.fetch, hostname: '127.0.0.1', port: 0 })
  await once(server, 'listening')
  env = { HOLDFAST_URL: `http://127.0.0.1:${(server.address() as AddressInfo).port}` }
})
afterAll(() => server.close())

const ask = (line: string, more: Env = {}): Promise<Ran> =>
  holdfast(line.split(' '), { ...env, ...more })

describe('holdfast', () => {
  it('says what it can do, and which version it is', async () => {
    const help = await ask('--help')
    expect(help).toMatchObject({ code: 0, stderr: '' })
    for (const command of ['sessions list', 'sessions follow', 'instance drain', 'doctor']) {
      expect(help.stdout).toContain(`  ${command}`)
    }
    expect((await ask('--version')).stdout).toMatch(/^\d+\.\d+\.\d+\n$/)
  })

  it.each([
    ['', 'No command given'],
    ['sessions', 'There is no command "sessions"'],
    ['sessions lsit', 'There is no command "sessions lsit"'],
    ['constructor', 'There is no command "constructor"'],
    ['sessions end', 'Which one? sessions end <name>'],
    ['sessions list one', '"one" is too much'],
    ['instance drain one two', '"two" is too much'],
    ['doctor now', '"now" is too much'],
    ['sessions list --jsn', "Unknown option '--jsn'"],
    ['sessions list --json=yes', "Option '--json' does not take an argument"],
  ])('answers "%s" in one line, and with exit code 2', async (line, message) => {
    const { code, stdout, stderr } = await ask(line)
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
    expect(stderr).toMatch(/^holdfast: .*\n$/)
    expect(stderr).toContain(message)
  })

  it('takes an empty name for none', async () => {
    expect(await holdfast(['sessions', 'end', ''], env)).toMatchObject({ code: 2, stdout: '' })
    expect(ended).toEqual([])
  })

  it.each([
    ['a server that is not there', { HOLDFAST_URL: 'http://127.0.0.1:2' }, /ECONNREFUSED/],
    ['one that takes no such token', { HOLDFAST_TOKEN: 'bad' }, /it does not take this token/],
    ['one that wants another token', { HOLDFAST_TOKEN: 'weak' }, /Cannot serve request: its scope/],
  ])('tells of %s in one line, and with exit code 1', async (_name, more, message) => {
    const { code, stdout, stderr } = await ask('sessions list', more)
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
    expect(stderr).toMatch(/^holdfast: .*\n$/)
    expect(stderr).toMatch(message)
  })

  it('asks for a token where it has none', async () => {
    isLocked = true
    const { stderr } = await ask('sessions list').finally(() => (isLocked = false))
    expect(stderr).toContain('it asks for a token (HOLDFAST_TOKEN)')
  })

  it.each([
    ['a page', 'sessions list'],
    ['nothing', 'sessions list'],
    ['nothing', 'sessions show 0123456789abcdef'],
    ['nothing', 'sessions end 0123456789abcdef'],
    ['nothing', 'sessions follow 0123456789abcdef'],
    ['nothing', 'instance drain mcp-server-1'],
  ])('tells of a server that is something else: %s to %s', async (HOLDFAST_TOKEN, line) => {
    const { code, stderr } = await ask(line, { HOLDFAST_TOKEN })
    expect(code).toBe(1)
    expect(stderr).toMatch(/^holdfast: .*HOLDFAST_URL right\?\n$/)
  })

  it.each(['nonsense', 'localhost:8080', 'ftp://localhost'])(
    'takes no server that HTTP does not reach: %s',
    async (HOLDFAST_URL) => {
      for (const line of ['doctor', 'sessions list']) {
        const { code, stderr } = await ask(line, { HOLDFAST_URL })
        expect(code).toBe(2)
        expect(stderr).toMatch(/^holdfast: HOLDFAST_URL is no http:\/\/ or https:\/\/ URL/)
      }
    },
  )

  it('is a program that ends with its exit code, and shows no colours to a pipe', async () => {
    const run = promisify(execFile)
    const { stdout } = await run('node', ['cli/holdfast.ts', 'sessions', 'list'], {
      env: { PATH: process.env['PATH'], ...env },
    })
    expect(stdout).toMatch(/^SESSION .*RUNNING\n/)
    await expect(run('node', ['cli/holdfast.ts', 'nonsense'])).rejects.toThrow(
      expect.objectContaining({ code: 2, stdout: '', stderr: expect.not.stringContaining(' at ') }),
    )
  })

  it('sends its token', async () => {
    await ask('sessions list', { HOLDFAST_TOKEN: 'good' })
    expect(token).toBe('Bearer good')
    await ask('sessions list')
    expect(token).toBeNull()
  })
})

describe('holdfast sessions', () => {
  it('lists them in columns, the numbers to the right', async () => {
    const { code, stdout } = await ask('sessions list')
    expect(code).toBe(0)
    expect(stdout.split('\n')).toEqual([
      'SESSION           ID        CLIENT             HOLDER        AGE  UNUSED  CALLS  STREAMS  RUNNING',
      '1f00000000000001  id00aaaa  claude 1.0         mcp-server-1  90s  10s         7        0        0',
      '1f00000000000002  id01aaaa  evil?[2J?1m? name  mcp-server-1  90s  10s       107        1        0',
      '2a00000000000003  id02aaaa  claude 1.0         mcp-server-1  90s  10s       207        2        0',
      'and 200 more',
      '',
    ])
  })

  it('gives machines all there is', async () => {
    const { stdout } = await ask('sessions list --json')
    expect(JSON.parse(stdout)).toEqual({ total: 203, latest: sessions })
    expect(stdout).not.toMatch(/\p{Cc}(?<!\n)/u)
  })

  it.each(['2a00000000000003', '2a', 'id02', 'id02aaaa'])(
    'shows the one meant by %s',
    async (name) => {
      expect((await ask(`sessions show ${name}`)).stdout).toMatch(/^session {4}2a00000000000003$/m)
      expect(JSON.parse((await ask(`sessions show ${name} --json`)).stdout)).toEqual(sessions[2])
    },
  )

  it('ends none where several are meant, and says which', async () => {
    const { code, stderr } = await ask('sessions end 1f')
    expect(code).toBe(1)
    expect(stderr).toBe(`holdfast: "1f" may be each of ${NAMES[0]}, ${NAMES[1]}\n`)
    expect(ended).toEqual([])
    expect(await ask('sessions end 1f00000000000002')).toEqual({
      code: 0,
      stdout: 'Ended 1f00000000000002\n',
      stderr: '',
    })
    expect(ended).toEqual(['1f00000000000002'])
  })

  it('ends one by its whole name that is not among those used last', async () => {
    expect(await ask('sessions end ffffffffffffffff')).toMatchObject({ code: 1, stdout: '' })
    expect(ended.at(-1)).toBe('ffffffffffffffff')
    expect((await ask('sessions end ff')).stderr).toBe('holdfast: There is no session "ff"\n')
  })

  it('follows one to its end', async () => {
    happenings = [
      { at: 0, kind: 'changed', version: 3 },
      { at: 1000, kind: 'grown', stream: 's1', last: 4 },
      { at: 2000, kind: 'ended' },
    ]
    const { code, stdout } = await ask('sessions follow 2a')
    expect(code).toBe(0)
    expect(stdout.split('\n')).toEqual([
      '1970-01-01T00:00:00.000Z  changed  version 3',
      '1970-01-01T00:00:01.000Z  grown  stream s1  entry 4',
      '1970-01-01T00:00:02.000Z  ended',
      '',
    ])
    const lines = (await ask('sessions follow 2a --json')).stdout.trim().split('\n')
    expect(lines.map((line) => JSON.parse(line) as Happening)).toEqual(happenings)
  })

  it('says so where the server stops telling', async () => {
    happenings = []
    const { code, stderr } = await ask('sessions follow 2a')
    expect({ code, stderr }).toEqual({ code: 1, stderr: 'holdfast: The server told no more\n' })
  })
})

describe('holdfast instance', () => {
  it('drains one, and has it take calls again', async () => {
    expect((await ask('instance drain mcp-server-1')).stdout).toBe('mcp-server-1 drains\n')
    expect((await ask('instance undrain mcp-server-1')).code).toBe(0)
    expect(drained).toEqual([
      ['mcp-server-1', true],
      ['mcp-server-1', false],
    ])
    expect(await ask('instance drain mcp-server-9')).toEqual({
      code: 1,
      stdout: '',
      stderr: 'holdfast: There is no instance "mcp-server-9"\n',
    })
  })
})

function view(name: string, at: number): SessionView {
  return {
    name: name as SessionName,
    id: `id0${at}aaaa`,
    principal: 'principal000',
    client: at === 1 ? HOSTILE : 'claude 1.0',
    revision: '2025-11-25',
    holder: 'mcp-server-1',
    openedAt: 10_000,
    usedAt: 90_000,
    expiresAt: 1_900_000,
    calls: 7 + at * 100,
    streams: at,
    running: 0,
  }
}
