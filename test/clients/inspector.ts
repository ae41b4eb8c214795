/** The Inspector from the command line: each command is a process, and a client, of its own. */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import {
  outcomeOf,
  type Arguments,
  type ClientKind,
  type TestClient,
  type Tool,
} from './client-kind.ts'

const FROM = '@modelcontextprotocol/inspector'
const PROGRAM = `node_modules/${FROM}/clients/launcher/build/index.js`

// It prints a result and nothing else, and has nobody to ask.
const DUMB = { from: FROM, hears: false, asks: false }

export const inspectors: readonly ClientKind[] = [
  {
    ...DUMB,
    name: 'Inspector, `legacy`',
    revision: '2025-11-25',
    connect: (url) => connect(url, 'legacy'),
  },
  {
    ...DUMB,
    name: 'Inspector, `auto`',
    revision: '2026-07-28',
    connect: (url) => connect(url, 'auto'),
  },
  {
    ...DUMB,
    name: 'Inspector, `modern`',
    revision: '2026-07-28',
    connect: (url) => connect(url, 'modern'),
  },
]

async function connect(url: string, era: 'legacy' | 'auto' | 'modern'): Promise<TestClient> {
  const run = async (method: string, args: readonly string[] = []): Promise<Arguments> => {
    const to = ['--cli', url, '--transport', 'http', '--protocol-era', era, '--format', 'json']
    const command = [PROGRAM, ...to, '-q', '--method', method, ...args]
    // A tool's error is a result, although the command fails with it.
    const { stdout } = await promisify(execFile)('node', command).catch(
      (failed: Error & { stdout: string }) =>
        failed.stdout === '' ? Promise.reject(failed) : failed,
    )
    return (JSON.parse(stdout) as { result: Arguments }).result
  }
  const { protocolVersion } = await run('initialize')
  return {
    revision: String(protocolVersion),
    // It begins one and never says which; the next command begins another.
    session: undefined,
    heard: { levels: [], progress: [] },
    tools: async () => (await run('tools/list'))['tools'] as Tool[],
    call: (name, args = {}) =>
      outcomeOf(() =>
        run('tools/call', ['--tool-name', name, '--tool-args-json', JSON.stringify(args)]),
      ),
    read: (uri) => run('resources/read', ['--uri', uri]),
    close: () => Promise.resolve(),
  }
}
