import { expect } from 'vitest'
import { TOOL_NAMES } from '../support/mcp.ts'
import { versionOf, type ClientKind, type TestClient } from './client-kind.ts'

/** Take no session, in no revision. */
const STATELESS = new Set<string>(['get_server_info', 'get_status'])

/** What became of a client in one topology. */
export interface Cell {
  /** Of the table in docs/compatibility.md, as far as it can be measured. */
  readonly row: string
  readonly checked: readonly string[]
}

/** What every client does here. */
export async function play(kind: ClientKind, client: TestClient): Promise<Cell> {
  expect(client.revision).toBe(kind.revision)
  const hasHandle = kind.revision === '2026-07-28'
  await expectTools(client, hasHandle)
  const session = hasHandle ? await openSession(client) : client.session
  const at = hasHandle ? { session } : {}

  for (const counter of [1, session === undefined ? 1 : 2]) {
    expect((await client.call('increment_counter', at)).content).toMatchObject({ counter })
  }
  const noted = await client.call('add_note', { ...at, note: 'hello' })
  expect(noted.content).toMatchObject({ notes_count: 1 })
  const analysis = await client.call('analyze_data', { ...at, num_items: 1 })
  expect(analysis.content).toMatchObject({ total_score: 1.5 })
  expect(client.heard).toEqual({
    levels: kind.hears ? ['info', 'debug', 'debug', 'info', 'info'] : [],
    progress: kind.hears ? [0, 1] : [],
  })
  if (session !== undefined) await expectSummary(client, session)
  await expectQuestion(kind, client, at)

  return {
    row: rowOf(kind, session === undefined ? 'nothing' : hasHandle ? 'a handle' : 'its session'),
    checked: [
      'tools, counter, note, analysis',
      ...(kind.hears ? ['2 steps of progress and 5 logs heard'] : []),
      ...(session === undefined ? [] : ['state kept, summary read']),
      kind.asks ? 'notes deleted with consent' : 'notes not deleted without consent',
    ],
  }
}

function rowOf(kind: ClientKind, place: string): string {
  const yes = (can: boolean): string => (can ? 'yes' : 'no')
  const version = `\`${kind.from}\` ${versionOf(kind.from)}`
  const cells = [kind.name, version, kind.revision, place, yes(kind.hears), yes(kind.asks)]
  return `| ${cells.join(' | ')} |`
}

export async function openSession(client: TestClient): Promise<string> {
  const { content } = await client.call('open_session')
  expect(content).toMatchObject({ session: expect.any(String) })
  return String(content?.['session'])
}

async function expectTools(client: TestClient, hasHandle: boolean): Promise<void> {
  const tools = await client.tools()
  const names = tools.map(({ name }) => name).toSorted()
  expect(names).toEqual([...TOOL_NAMES, ...(hasHandle ? ['open_session'] : [])].toSorted())
  const stateful = TOOL_NAMES.filter((name) => !STATELESS.has(name))
  const takeOne = tools.filter(({ inputSchema }) => inputSchema.required?.includes('session'))
  expect(takeOne.map(({ name }) => name).toSorted()).toEqual(hasHandle ? stateful.toSorted() : [])
}

async function expectSummary(client: TestClient, session: string): Promise<void> {
  const read = await client.read(`resource://session/${session}/summary`)
  const { contents } = read as { contents: { text: string }[] }
  const summary: unknown = JSON.parse(contents[0]?.text ?? 'null')
  expect(summary).toMatchObject({ session_id: session, counter: 2, notes: ['hello'] })
}

/** A client that can ask its user does; for others nothing is deleted. */
async function expectQuestion(kind: ClientKind, client: TestClient, at: object): Promise<void> {
  const cleared = await client.call('clear_notes', { ...at })
  if (kind.asks) expect(cleared.content).toMatchObject({ confirmed: true, notes_deleted: 1 })
  else expect(cleared.failure).toMatch(/elicitation/)
  const isLeft = !kind.asks && 'session' in at
  const { content } = await client.call('list_notes', { ...at })
  expect(content).toMatchObject({ notes: isLeft ? ['hello'] : [] })
}
