import { expect } from 'vitest'
import { callTool, openSession, rpc } from '../support/mcp.ts'
import type { Topology } from './topologies.ts'

/** A server with a session that is attacked, and one that must not notice. */
export interface Scene extends Topology {
  readonly own: string
  readonly canary: string
}

const SECRET_NOTE = 'what nobody else may read'
const CANARY_MS = 250
const TRIES = 10

export async function setScene(topology: Topology): Promise<Scene> {
  const { fetch } = topology
  const [own, canary] = [await openSession(fetch), await openSession(fetch)]
  for (const session of [own, canary]) {
    await callTool(fetch, session, 'increment_counter')
    await callTool(fetch, session, 'add_note', { note: SECRET_NOTE })
  }
  return { ...topology, own, canary }
}

export interface Snapshot {
  readonly own: object
  readonly canary: object
  /** Of all sessions together: what is stored, and how many have state. */
  readonly all: object
  readonly pids: readonly (number | null)[]
}

/** All that a request might change. The canary must answer at once. */
export async function snapshotOf(scene: Scene): Promise<Snapshot> {
  const canary = await askCanary(scene)
  const own = await summaryOf(scene, scene.own)
  const kept = await scene.kept()
  // Where sessions are objects each tells of itself at its leisure; there the files are counted.
  const { active_sessions: sessions } =
    scene.name === 'edge' ? {} : await callTool(scene.fetch, scene.canary, 'get_status')
  return { own, canary, all: { kept, sessions }, pids: await scene.pids() }
}

/** Asks again if it took long: another process may have had the machine's cores just then. */
async function askCanary(scene: Scene): Promise<object> {
  for (let tries = 1; ; tries++) {
    const began = performance.now()
    const summary = await summaryOf(scene, scene.canary)
    const ms = performance.now() - began
    if (ms < CANARY_MS || tries === TRIES) {
      expect(ms).toBeLessThan(CANARY_MS)
      return summary
    }
  }
}

/** Everything that a session remembers, in one call. */
export async function summaryOf({ fetch }: Topology, session: string): Promise<object> {
  const params = { uri: `resource://session/${session}/summary` }
  const message = { jsonrpc: '2.0', id: 1, method: 'resources/read', params }
  const { result } = await rpc(fetch, session, message)
  const [content] = (result?.['contents'] ?? []) as { text: string }[]
  const { instance: _, ...summary } = JSON.parse(content?.text ?? '{}') as { instance?: string }
  return summary
}

/** What neither a refusal nor a log may repeat: ids, and what sessions remember. */
export function secretsIn({ own, canary }: Scene, text: string): string[] {
  return [own, canary, SECRET_NOTE].filter((secret) => text.includes(secret))
}
