/** What is secret stays so: in logs, in what operators look at, and in refusals. */
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { describe, expect, it, onTestFinished } from 'vitest'
import { fetchFrom, startFleet, type Fleet } from '../support/fleet.ts'
import { until, type Fetch } from '../support/mcp.ts'
import { freePort } from '../support/ports.ts'
import { secretsIn, settingsFor, useSecrets, type Secrets, type Told } from './secrets.ts'

// What a client is told again of what it has just said: a name, or an address that leads nowhere.
const ECHOES = new Set([
  'headers that say another method: name',
  'no such tool by handle: name',
  'no such argument by handle: note',
  'no such resource by handle: handle',
  'no such tool: name',
  'no such resource: name',
  'no such session to read: session',
  'no such argument: garbage',
])

describe('secrets', () => {
  it('are nowhere in a fleet but where they belong', async () => {
    const token = `token-${crypto.randomUUID()}`
    const fleet = await startFleet(settingsFor(token))
    onTestFinished(async () => void (await fleet.stop()))
    await fleet.allAre('UP')
    const { secrets, told } = await useSecrets(fleet.fetch, token)
    expectSafe(told, secrets)
    await loseRedis(fleet, token, told)

    const places = await placesOf(fleet)
    for (const [what, text] of Object.entries(places)) places[what] = text === '' ? 'empty' : text
    const own = readFileSync(join(fleet.folder, 'secret'), 'utf8')
    const all = { ...secrets, signing: own }
    const found = Object.entries(places).flatMap(([place, text]) =>
      secretsIn(text, all).map((what) => `${what} in ${place}`),
    )
    expect(found).toEqual([])
    expect(places['logs']).toContain((secrets['session'] ?? '').slice(0, 8))
    expect(Object.entries(places).filter(([, text]) => text === 'empty')).toEqual([])
  })

  it('are nowhere on the edge but where they belong', async () => {
    const token = `token-${crypto.randomUUID()}`
    const edge = await startLoud(settingsFor(token))
    onTestFinished(() => edge.stop())
    const { secrets, told } = await useSecrets(edge.fetch, token)
    expectSafe(told, secrets)
    await until(
      async () => edge.output(),
      (text) => text.includes('request_refused'),
    )
    const places = { output: edge.output(), ps: await processes() }
    const found = Object.entries(places).flatMap(([place, text]) =>
      secretsIn(text, secrets).map((what) => `${what} in ${place}`),
    )
    expect(found).toEqual([])
    expect(places.output).toContain((secrets['session'] ?? '').slice(0, 8))
  })
})

/** Nobody may keep an answer or guess its type, and no refusal says what it was sent. */
function expectSafe(told: readonly Told[], secrets: Secrets): void {
  const kept = told.filter(
    ({ headers }) => !(headers.get('cache-control') ?? '').includes('no-store'),
  )
  const guessed = told.filter(({ headers }) => headers.get('x-content-type-options') !== 'nosniff')
  const echoes = told
    .filter(isRefused)
    .flatMap(({ what, headers, body }) =>
      secretsIn(body + withoutOwn(headers), secrets).map((secret) => `${what}: ${secret}`),
    )
  expect(echoes.filter((one) => !ECHOES.has(one))).toEqual([])
  expect(kept.map(({ what, status }) => `${what}: ${status}`)).toEqual([])
  expect(guessed.map(({ what, status }) => `${what}: ${status}`)).toEqual([])
}

function isRefused({ status, body }: Told): boolean {
  return status >= 300 || /"error":|"isError":true/.test(body)
}

/** The header that names the session to its own client. */
function withoutOwn(headers: Headers): string {
  return [...headers].filter(([name]) => name !== 'mcp-session-id').join('\n')
}

/** Calls that fail for want of a store, and say so in the logs. */
async function loseRedis(fleet: Fleet, token: string, told: Told[]): Promise<void> {
  const pid = fleet.pid('redis')
  if (pid === null) throw new Error('Redis does not run')
  process.kill(pid, 'SIGSTOP')
  const { told: more } = await useSecrets(fleet.fetch, token).catch(() => ({ told: [] }))
  process.kill(pid, 'SIGCONT')
  told.push(...more)
  await fleet.allAre('UP')
}

async function placesOf(fleet: Fleet): Promise<Record<string, string>> {
  const { statsUrl } = fleet.map().haproxy
  const files = readdirSync(fleet.folder).filter((file) => file.endsWith('.log'))
  const read = (path: string) => fetch(new URL(path, statsUrl)).then((answer) => answer.text())
  const admin = [
    'show table mcp',
    'show table addresses',
    'show stat',
    'show errors',
    'show sess',
    'show info',
  ]
  const shown = admin.map(async (command) => [command, await fleet.admin(command)] as const)
  return {
    logs: files.map((file) => readFileSync(join(fleet.folder, file), 'utf8')).join(''),
    ...Object.fromEntries(await Promise.all(shown)),
    stats: (await read('/stats')) + (await read('/stats;csv')),
    metrics: await read('/metrics'),
    ps: await processes(),
  }
}

async function processes(): Promise<string> {
  return (await promisify(execFile)('ps', ['-eo', 'args='], { maxBuffer: 2 ** 26 })).stdout
}

interface Loud {
  readonly fetch: Fetch
  readonly output: () => string
  readonly stop: () => Promise<void>
}

/** The edge, and all that it says. */
async function startLoud(settings: Record<string, string>): Promise<Loud> {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-secrets-'))
  const vars = Object.entries(settings).map(([name, value]) => `${name} = "${value}"`)
  const config = join(folder, 'wrangler.toml')
  const text = readFileSync('wrangler.toml', 'utf8')
    .replace('main = "', `main = "${process.cwd()}/`)
    .replace('[vars]', ['[vars]', ...vars].join('\n'))
  writeFileSync(config, text)
  const port = await freePort()
  const args = [
    '-c',
    config,
    '--port',
    String(port),
    '--inspector-port',
    '0',
    '--persist-to',
    folder,
  ]
  const env = {
    ...process.env,
    CI: '1',
    WRANGLER_SEND_METRICS: 'false',
    CLOUDFLARE_CF_FETCH_ENABLED: 'false',
  }
  const child = spawn('npx', ['wrangler', 'dev', ...args], { detached: true, env })
  const exited = once(child, 'exit')
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (said) => (output += said))
  const url = `http://localhost:${port}/mcp`
  await until(
    () =>
      fetch(new URL('/ready', url))
        .then(({ ok }) => ok)
        .catch(() => false),
    (isReady) => isReady || child.exitCode !== null,
  )
  return {
    fetch: fetchFrom(url),
    output: () => output,
    async stop() {
      if (child.pid !== undefined && child.exitCode === null) process.kill(-child.pid, 'SIGKILL')
      await exited
      rmSync(folder, { recursive: true, force: true })
    },
  }
}
