/** Who may be served without saying who they are: nobody but this machine, unless somebody says so. */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { initialize, post } from '../support/mcp.ts'
import { startNode } from '../support/node.ts'
import { bearing, hashed } from './auth-callers.ts'
import { bytesOf, exchange } from './raw.ts'
import { START, type Topology } from './topologies.ts'

type Settings = Record<string, string>

const TOKEN = 'token-of-ann'
const TOKENS = hashed('ann', TOKEN)
const START_MS = 10_000

describe('a Node instance without auth', () => {
  it.each(['0.0.0.0', '::', 'mcp.example', '127.0.0.1.example'])(
    'does not begin to listen on %s',
    async (HOST) => {
      const { code, output } = await ending({ HOST })
      expect(code).toBe(1)
      expect(output).toContain(`Cannot listen on ${HOST}: `)
      expect(output).toContain('AUTH_TOKENS')
      expect(output).toContain('ALLOW_ANONYMOUS=1')
      expect(output).not.toContain('serves')
    },
  )

  it.each(['0', ''])('does not take ALLOW_ANONYMOUS=%s for a word', async (ALLOW_ANONYMOUS) => {
    const { code } = await ending({ HOST: '0.0.0.0', ALLOW_ANONYMOUS })
    expect(code).toBe(1)
  })

  it.each([
    ['where it is let', { HOST: '0.0.0.0', ALLOW_ANONYMOUS: '1' }],
    ['on this machine', { HOST: '127.0.0.1' }],
    ['on no host in particular', { HOST: '', AUTH_TOKENS: '', ALLOW_ANONYMOUS: '' }],
  ])('serves everybody %s', async (_where, settings) => {
    expect(await statusOf(settings)).toBe(200)
  })
})

describe('a Node instance with auth', () => {
  it('listens anywhere', async () => {
    const settings = { HOST: '0.0.0.0', AUTH_TOKENS: TOKENS }
    expect(await statusOf(settings, TOKEN)).toBe(200)
  })

  it('asks for it, whoever may be nobody', async () => {
    const settings = { HOST: '0.0.0.0', AUTH_TOKENS: TOKENS, ALLOW_ANONYMOUS: '1' }
    expect(await statusOf(settings)).toBe(401)
    expect(await statusOf({ AUTH_TOKENS: TOKENS })).toBe(401)
  })

  it('does not start with a setting that is none, and names it', async () => {
    const { code, output } = await ending({ AUTH_TOKENS: `ann:${TOKEN}` })
    expect(code).toBe(1)
    expect(output).toContain('AUTH_TOKENS')
    // It may be a secret that has got to the wrong place.
    expect(output).not.toContain(TOKEN)
  })
})

describe('the edge without auth', () => {
  let server: Topology

  beforeAll(async () => {
    server = await START.edge()
  })
  afterAll(() => server.stop())

  it.each(['localhost', '127.0.0.1', '[::1]'])('serves everybody as %s', async (host) => {
    expect(await answerAs(server, host)).toMatchObject({ status: 200 })
  })

  it('serves nobody under a name that others can reach', async () => {
    const { status, body, headers } = await answerAs(server, 'holdfast.example.workers.dev')
    expect(status).toBe(403)
    expect(JSON.parse(body)).toMatchObject({ error: { data: { type: 'anonymous_forbidden' } } })
    expect(headers.get('mcp-session-id')).toBeNull()
  })

  it('is told that it may', async () => {
    const open = await START.edge({ ALLOW_ANONYMOUS: '1' })
    onTestFinished(() => void open.stop())
    const answer = await answerAs(open, 'holdfast.example.workers.dev')
    expect(answer).toMatchObject({ status: 200 })
  })
})

/** What a process says that ends before it serves. */
async function ending(settings: Settings): Promise<{ code: unknown; output: string }> {
  const env = { ...process.env, REDIS_URL: '', PORT: '0', ...settings }
  const args = ['haproxy-compat/server.ts']
  const end = promisify(execFile)('node', args, { env, timeout: START_MS })
  return end.then(
    ({ stdout, stderr }) => ({ code: 0, output: stdout + stderr }),
    ({ code, stdout, stderr }) => ({ code, output: stdout + stderr }),
  )
}

/** Of who would like to begin a session. */
async function statusOf(settings: Settings, token?: string): Promise<number> {
  const { url, kill } = await startNode(settings)
  onTestFinished(() => void kill('SIGKILL'))
  const here = new URL('/mcp', url)
  here.hostname = '127.0.0.1'
  const send = (request: Request): Promise<Response> => fetch(new Request(here, request))
  const response = await bearing(send, token)(post(JSON.stringify(initialize)))
  await response.text()
  return response.status
}

function answerAs({ port }: Topology, host: string) {
  const headers = { ...Object.fromEntries(post('').headers), host }
  return exchange(port, bytesOf({ headers, body: JSON.stringify(initialize) }))
}
