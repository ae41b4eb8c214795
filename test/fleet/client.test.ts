import { SdkHttpError } from '@modelcontextprotocol/client'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { connect } from '../support/client.ts'
import { startFleet, type Fleet } from '../support/fleet.ts'
import { ANALYSIS_PROGRESS, analysisLogs, TOOL_NAMES, until } from '../support/mcp.ts'

/** What a client sees, be it one that knows nothing of HAProxy, of instances or of Redis. */
describe('the official client, through HAProxy', () => {
  let fleet: Fleet
  const begin = () => connect(fleet.url)

  beforeAll(async () => {
    fleet = await startFleet()
  })
  afterAll(() => fleet.stop())

  it('learns who it talks to, and finds ten tools in their order', async () => {
    const { client } = await begin()
    expect(client.getServerVersion()).toMatchObject({ name: 'holdfast' })
    expect(client.getInstructions()).toMatch(/^Stateful MCP server instance: mcp-server-[123]$/)
    const { tools } = await client.listTools()
    expect(tools.map(({ name }) => name)).toEqual(TOOL_NAMES)
    for (const { outputSchema } of tools) {
      expect(outputSchema).toEqual({ type: 'object', additionalProperties: true })
    }
  })

  it('counts from 0, and reads a result as text and as an object', async () => {
    const { client, call } = await begin()
    expect(await call('get_counter')).toMatchObject({ counter: 0 })
    expect(await call('increment_counter')).toMatchObject({ counter: 1 })
    const result = await client.callTool({ name: 'increment_counter', arguments: {} })
    expect(result.structuredContent).toMatchObject({ counter: 2 })
    expect(result.content).toEqual([
      { type: 'text', text: JSON.stringify(result.structuredContent) },
    ])
  })

  it('gets its notes back in their order', async () => {
    const { call } = await begin()
    expect(await call('list_notes')).toMatchObject({ notes: [] })
    for (const note of ['one', 'two', 'three', 'one']) await call('add_note', { note })
    expect(await call('list_notes')).toMatchObject({ notes: ['one', 'two', 'three', 'one'] })
  })

  it('is told that its session is the one it wants to resume', async () => {
    const { call, session } = await begin()
    expect(await call('resume_session', { old_session_id: session })).toEqual({
      status: 'same_session',
      instance: expect.any(String),
    })
  })

  it('hears each message of an analysis, and its progress', async () => {
    const { client, logs } = await begin()
    const progress: unknown[] = []
    const { structuredContent } = await client.callTool(
      { name: 'analyze_data', arguments: { num_items: 3 } },
      { onprogress: (step) => void progress.push([step.progress, step.total, step.message]) },
    )
    const instance = expect.stringMatching(/^mcp-server-[123]$/)
    expect(structuredContent).toEqual({ items_processed: 3, total_score: 9, instance })
    const { instance: name } = structuredContent as { instance: string }
    expect(logs).toEqual(analysisLogs(name))
    expect(progress).toEqual(ANALYSIS_PROGRESS)
  })

  it('finds its summary by the one template there is', async () => {
    const { client, call, session } = await begin()
    expect((await client.listResources()).resources).toEqual([])
    const { resourceTemplates } = await client.listResourceTemplates()
    expect(resourceTemplates).toEqual([
      {
        name: 'session_summary',
        uriTemplate: 'resource://session/{session_id}/summary',
        mimeType: 'text/plain',
        description: expect.any(String),
      },
    ])
    await call('increment_counter')
    await call('add_note', { note: 'kept' })
    const uri = `resource://session/${session}/summary`
    const [content] = (await client.readResource({ uri })).contents
    const summary = {
      session_id: session,
      counter: 1,
      notes: ['kept'],
      analysis_result: null,
      instance: expect.any(String),
    }
    expect(content).toMatchObject({ uri, mimeType: 'text/plain' })
    const { text } = content as { text: string }
    expect(JSON.parse(text)).toEqual(summary)
    expect(Object.keys(JSON.parse(text) as object)).toEqual(Object.keys(summary))
    expect(text).toMatch(/^\{\n {2}"session_id"/)
  })

  it('watches what another connection does in the same session', async () => {
    const watcher = await begin()
    const other = await connect(fleet.url, watcher.session)
    const watching = watcher.call('watch_counter', { duration_seconds: 5 })
    const heard = (count: number) =>
      until(
        () => Promise.resolve(watcher.logs.length),
        (length) => length >= count,
      )
    await heard(1)
    await other.call('increment_counter')
    await heard(2)
    await other.call('increment_counter')
    const changes = [
      { from: 0, to: 1, at: expect.any(Number) },
      { from: 1, to: 2, at: expect.any(Number) },
    ]
    expect(await watching).toMatchObject({ changes, total_changes: 2 })
    expect(watcher.logs).toEqual([
      ['info', 'Watching counter for 5s (current: 0)'],
      ['info', 'Counter changed: 0 -> 1'],
      ['info', 'Counter changed: 1 -> 2'],
      ['info', 'Watch complete. 2 change(s) detected.'],
    ])
  })

  it('is told what is wrong with a call, and goes on', async () => {
    const { client, call } = await begin()
    const wrong = await client.callTool({ name: 'add_note', arguments: {} })
    expect(wrong).toMatchObject({
      isError: true,
      content: [{ text: expect.stringContaining('note') }],
    })
    expect(wrong.structuredContent).toBeUndefined()
    await expect(call('no_such_tool')).rejects.toMatchObject({ code: -32_602 })
    await expect(client.readResource({ uri: 'resource://nowhere' })).rejects.toMatchObject({
      code: -32_602,
    })
    expect(await call('list_notes')).toMatchObject({ notes: [] })
  })

  it('ends its session for all connections of it', async () => {
    const { transport, session } = await begin()
    const other = await connect(fleet.url, session)
    await other.call('increment_counter')
    await transport.terminateSession()
    await expectGone(other.call('get_counter'))
    await expectGone((await connect(fleet.url, session)).call('increment_counter'))
    const { call } = await begin()
    expect(await call('resume_session', { old_session_id: session })).toMatchObject({
      keys_copied: 0,
    })
  })

  it.each(['0'.repeat(32), 'A'.repeat(44), '*'])('has no session by the id "%s"', async (id) => {
    await expectGone((await connect(fleet.url, id)).call('increment_counter'))
  })
})

async function expectGone(answer: Promise<unknown>): Promise<void> {
  const error = await answer.catch((reason: unknown) => reason)
  expect(error).toBeInstanceOf(SdkHttpError)
  expect(error).toMatchObject({ status: 404 })
  expect(String(error)).toContain('session_not_found')
}
