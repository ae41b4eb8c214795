import { execFile } from 'node:child_process'
import { cpSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, it, onTestFinished } from 'vitest'
import { ResilientClient } from '../../client/resilient-client.ts'
import { connect } from '../support/client.ts'
import { startNode, type NodeInstance } from '../support/node.ts'
import { startRedis } from '../support/redis.ts'
import { startWrangler } from '../support/wrangler.ts'
import { checkTypes, installPacked, type Installed } from './installed.ts'
import { writeBlocks } from './printed.ts'

const MAX_TARBALL_BYTES = 300_000
const SECRET = 'a-secret-of-these-tests'

let installed: Installed
beforeAll(async () => {
  installed = await installPacked()
  const folder = join(installed.folder, 'printed')
  const inReadme = writeBlocks('README.md', 'Your own tools', folder)
  expect(inReadme).toEqual(['tools.ts', 'worker.ts', 'server.ts'])
  expect(writeBlocks('docs/own-tools.md', 'What is written for the SDK', folder)).toEqual([
    'wrapped.ts',
  ])
}, 600_000)
afterAll(() => installed.remove())

it('what is published is small, and has no sources beside what is built of them', async () => {
  expect(installed.tarballBytes).toBeLessThan(MAX_TARBALL_BYTES)
  const folder = join(installed.folder, 'node_modules/holdfast')
  const { stdout } = await promisify(execFile)('find', [folder, '-name', '*.ts'])
  expect(stdout.split('\n').filter((file) => file !== '' && !file.endsWith('.d.ts'))).toEqual([])
})

it.each(['typescript-5', 'typescript'])(
  'types check by %s, our own too',
  async (compiler) => {
    const { folder } = installed
    // Each runtime has types of its own, and they would not fit each other.
    await Promise.all([
      checkTypes(
        compiler,
        folder,
        ['@cloudflare/workers-types'],
        ['shopping-list', 'report', 'printed'],
      ),
      checkTypes(compiler, folder, ['node'], ['own-store']),
    ])
  },
  300_000,
)

it('the command is there', async () => {
  const { stdout } = await promisify(execFile)('npx', ['holdfast', '--help'], {
    cwd: installed.folder,
  })
  expect(stdout).toContain('holdfast')
})

it('the shopping list is kept on Node', async () => {
  const { url } = await start('shopping-list')
  await shop(url)
})

it('the shopping list is kept on the edge', async () => {
  const config = join(installed.folder, 'shopping-list/wrangler.toml')
  const wrangler = await startWrangler({ config })
  onTestFinished(wrangler.kill)
  await shop(wrangler.url)
})

it('a report is written on the edge', async () => {
  const wrangler = await startWrangler({ config: join(installed.folder, 'report/wrangler.toml') })
  onTestFinished(wrangler.kill)
  const { client } = await reader([`${wrangler.url}/mcp`])
  expect(await writeReport(client)).toMatchObject({ written: true, audience: 'board', reports: 1 })
})

it('a report whose instance is killed half-way is written on by another', async () => {
  const redis = await startRedis()
  onTestFinished(redis.stop)
  const env = { REDIS_URL: redis.url, SESSION_SECRET: SECRET }
  const first = await start('report', { ...env, INSTANCE_ID: 'first' })
  const second = await start('report', { ...env, INSTANCE_ID: 'second' })
  const { client, progress } = await reader([`${first.url}/mcp`, `${second.url}/mcp`])
  const written = await writeReport(client, async (done) => {
    if (done === 2) await first.kill('SIGKILL')
  })
  expect(written).toMatchObject({
    year: 2026,
    figures: { revenue: 202607, costs: 202605, people: 202606, outlook: 202607 },
    audience: 'board',
    reports: 1,
  })
  // Each told once, in order, by whichever instance.
  expect(progress).toEqual([0, 1, 2, 3, 4])
})

it('a store of one’s own keeps the contract, and sessions over a restart', async () => {
  const folder = join(installed.folder, 'own-store')
  await promisify(execFile)('node', ['--test'], { cwd: folder })
  const env = { SESSION_SECRET: SECRET, SESSIONS_FILE: join(folder, 'test.db') }
  const first = await start('own-store', env)
  const before = await connect(`${first.url}/mcp`)
  await before.call('add', { item: 'bread' })
  await first.kill('SIGKILL')
  const second = await start('own-store', env)
  const after = await connect(`${second.url}/mcp`, before.session)
  expect(await after.call('list')).toEqual({ list: ['bread'] })
})

it('the README section on tools of one’s own does as printed, on Node and on the edge', async () => {
  const folder = join(installed.folder, 'printed')
  cpSync('examples/shopping-list/wrangler.toml', join(folder, 'wrangler.toml'))
  const wrangler = await startWrangler({ config: join(folder, 'wrangler.toml') })
  onTestFinished(wrangler.kill)
  for (const { url } of [await start('printed'), wrangler]) {
    const { call } = await connect(`${url}/mcp`)
    expect(await call('remember', { word: 'kelp' })).toEqual({ words: ['kelp'] })
  }
})

it('a server of the SDK’s is wrapped as printed', async () => {
  const { url } = await start('printed', {}, 'wrapped.ts')
  const { client, call } = await connect(`${url}/mcp`)
  const { tools } = await client.listTools()
  expect(tools.map(({ name }) => name).toSorted()).toEqual(['remember', 'shout'])
  expect(await call('remember', { word: 'kelp' })).toEqual({ words: ['kelp'] })
  const shouted = await client.callTool({ name: 'shout', arguments: { word: 'kelp' } })
  expect(shouted.content).toEqual([{ type: 'text', text: 'KELP' }])
})

async function start(
  example: string,
  env: Record<string, string> = {},
  entry = 'server.ts',
): Promise<NodeInstance> {
  const instance = await startNode(env, join(installed.folder, example, entry))
  onTestFinished(async () => void (await instance.kill('SIGKILL')))
  return instance
}

async function shop(url: string): Promise<void> {
  const { call, client, session } = await connect(`${url}/mcp`)
  await call('add', { item: 'bread' })
  expect(await call('add', { item: 'kelp' })).toEqual({ list: ['bread', 'kelp'] })
  expect(await call('remove', { item: 'bread' })).toEqual({ list: ['kelp'] })
  const missing = await client.callTool({ name: 'remove', arguments: { item: 'bread' } })
  expect(missing.isError).toBe(true)
  const again = await connect(`${url}/mcp`, session)
  expect(await again.call('list')).toEqual({ list: ['kelp'] })
}

/** A client whose user wants the board to read the report. */
async function reader(urls: readonly string[]) {
  const progress: number[] = []
  const capabilities = { elicitation: { form: {} } }
  const client = new ResilientClient({ name: 'test', version: '0' }, { urls, capabilities })
  client.setRequestHandler('elicitation/create', () => ({
    action: 'accept',
    content: { audience: 'board' },
  }))
  await client.connect()
  onTestFinished(() => client.close())
  return { client: Object.assign(client, { progress }), progress }
}

async function writeReport(
  client: Awaited<ReturnType<typeof reader>>['client'],
  onProgress: (done: number) => Promise<void> = () => Promise.resolve(),
): Promise<unknown> {
  const call = { name: 'write_report', arguments: { year: 2026 } }
  const result = await client.callTool(call, {
    timeout: 60_000,
    onprogress({ progress }) {
      client.progress.push(progress)
      void onProgress(progress)
    },
  })
  return result.structuredContent
}
