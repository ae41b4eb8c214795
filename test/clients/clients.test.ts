/** Real clients in all their modes, with both topologies: what docs/compatibility.md says of them. */
import { readFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { startFleet, type Fleet } from '../support/fleet.ts'
import { startWrangler, type Wrangler } from '../support/wrangler.ts'
import { agents, connectAgent, startAgents } from './agent.ts'
import type { Arguments, TestClient } from './client-kind.ts'
import { inspectors } from './inspector.ts'
import { connectPinned, connectV1, connectV2, official } from './official.ts'
import { openSession, play } from './scenario.ts'

type Topology = 'edge' | 'fleet'
const TOPOLOGIES: readonly Topology[] = ['edge', 'fleet']

let edge: Wrangler
let fleet: Fleet
let host: Wrangler

const stops: (() => Promise<unknown>)[] = []

beforeAll(async () => {
  const [ours, others, agentHost] = [startWrangler(), startFleet(), startAgents()]
  // Each as soon as it runs: another one may not come that far.
  void ours.then(({ kill }) => stops.push(kill))
  void others.then(({ stop }) => stops.push(stop))
  void agentHost.then(({ kill }) => stops.push(kill))
  ;[edge, fleet, host] = await Promise.all([ours, others, agentHost])
})
afterAll(() => Promise.all(stops.map((stop) => stop())))

const urlOf = (topology: Topology): string => (topology === 'edge' ? `${edge.url}/mcp` : fleet.url)

const kinds = [...official, ...inspectors, ...agents(() => host.url)]
const cells = TOPOLOGIES.flatMap((topology) => kinds.map((kind) => ({ topology, kind })))

describe('a client', () => {
  const lines: string[] = []
  afterAll(() => console.log(lines.toSorted().join('\n')))

  it.concurrent.for(cells)('$kind.name, with the $topology', async ({ topology, kind }) => {
    const client = await kind.connect(urlOf(topology))
    const { row, checked } = await play(kind, client)
    await client.close()
    lines.push(`${topology.padEnd(5)} ${row} ${checked.join('; ')}`)
    expect(readFileSync('docs/compatibility.md', 'utf8')).toContain(row)
  })
})

describe.for(TOPOLOGIES)('an Agent whose object is reset, with the %s', (topology) => {
  it.for(['auto', 'legacy'] as const)('goes on where it was, as `%s`', async (mode) => {
    const agent = await connectAgent(host.url, urlOf(topology), mode)
    const at = mode === 'auto' ? { session: await openSession(agent) } : {}
    expect(await counterOf(agent, RAISE, at)).toBe(1)
    await agent.reset()
    expect(await counterOf(agent, RAISE, at)).toBe(2)
    await agent.call('add_note', { ...at, note: 'hello' })
    const { content, failure } = await agent.call('clear_notes', at)
    expect(failure).toBeUndefined()
    expect(content).toMatchObject({ confirmed: true, notes_deleted: 1 })
    await agent.close()
  })
})

describe.for(TOPOLOGIES)('one session in two revisions, with the %s', (topology) => {
  it('is raised by v1, by v2 in 2026-07-28, and read by v1', async () => {
    const v1 = await open(connectV1(urlOf(topology)))
    const pinned = await open(connectPinned(urlOf(topology)))
    const at = { session: v1.session }
    for (const counter of [1, 2, 3]) expect(await counterOf(v1, RAISE)).toBe(counter)
    await killHolder(v1, {})
    for (const counter of [4, 5]) expect(await counterOf(pinned, RAISE, at)).toBe(counter)
    await killHolder(pinned, at)
    expect(await counterOf(v1, READ)).toBe(5)
  })

  it('is opened in 2026-07-28, and goes on with v1 and v2 under the handle as its id', async () => {
    const pinned = await open(connectPinned(urlOf(topology)))
    const session = await openSession(pinned)
    for (const counter of [1, 2]) expect(await counterOf(pinned, RAISE, { session })).toBe(counter)
    const v1 = await open(connectV1(urlOf(topology), session))
    expect(await counterOf(v1, RAISE)).toBe(3)
    const v2 = await open(connectV2(urlOf(topology), { sessionId: session }))
    expect(await counterOf(v2, RAISE)).toBe(4)
    expect(await counterOf(pinned, READ, { session })).toBe(4)
  })

  it('is copied by resume_session, from 2026-07-28 to v1 and back', async () => {
    const pinned = await open(connectPinned(urlOf(topology)))
    const first = await openSession(pinned)
    await pinned.call('add_note', { session: first, note: 'from the first' })
    expect(await counterOf(pinned, RAISE, { session: first })).toBe(1)

    const v1 = await open(connectV1(urlOf(topology)))
    const copied = { status: 'resumed', keys_copied: 2 }
    const there = await v1.call('resume_session', { old_session_id: first })
    expect(there.content).toMatchObject(copied)
    expect(await counterOf(v1, RAISE)).toBe(2)

    const session = await openSession(pinned)
    const back = await pinned.call('resume_session', { session, old_session_id: v1.session })
    expect(back.content).toMatchObject(copied)
    expect(await counterOf(pinned, RAISE, { session })).toBe(3)
    const { content } = await pinned.call('list_notes', { session })
    expect(content).toMatchObject({ notes: ['from the first'] })
    expect(await counterOf(pinned, READ, { session: first })).toBe(1)
  })

  /** Where there are several, the instance that answers is killed. */
  async function killHolder(client: TestClient, at: Arguments): Promise<void> {
    if (topology === 'edge') return
    const { content } = await client.call(READ, at)
    fleet.signal(String(content?.['instance']), 'SIGKILL')
  }
})

const RAISE = 'increment_counter'
const READ = 'get_counter'

async function counterOf(client: TestClient, tool: string, at: Arguments = {}): Promise<unknown> {
  const { content, failure } = await client.call(tool, at)
  return content?.['counter'] ?? failure
}

async function open(connected: Promise<TestClient>): Promise<TestClient> {
  const client = await connected
  onTestFinished(() => client.close())
  return client
}
