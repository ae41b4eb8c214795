import { describe, expect, it } from 'vitest'
import { createLocalApp } from '../../support/local-app.ts'
import { BASE, initialize, post, toolCall, TOOL_NAMES } from '../../support/mcp.ts'
import { askTool, openHandle, replyTo, runTool } from '../../support/stateless.ts'

describe('a server whose sessions are off', () => {
  const { fetch: its } = createLocalApp({ env: { SESSIONS: 'off' } })
  const say = (message: object, headers: Record<string, string> = {}) =>
    its(post(JSON.stringify(message), headers))
  const call = async (name: string, args: object = {}) =>
    (await replyTo(await say(toolCall(name, args)))).result

  it('begins none for a client that knows them', async () => {
    const response = await say(initialize)
    expect(response.headers.has('mcp-session-id')).toBe(false)
    const { result } = await replyTo(response)
    expect(result).toMatchObject({ protocolVersion: '2025-11-25' })
    const started = await say({ jsonrpc: '2.0', method: 'notifications/initialized' })
    expect([started.status, started.headers.has('mcp-session-id')]).toEqual([202, false])
  })

  it('has its tools ask that client for a session, and opens one', async () => {
    const { result } = await replyTo(await say({ jsonrpc: '2.0', id: 1, method: 'tools/list' }))
    const offered = (result as unknown as { tools: { name: string }[] }).tools
    expect(offered.map(({ name }) => name)).toEqual(['open_session', ...TOOL_NAMES])
    const session = String((await call('open_session'))?.structuredContent?.['session'])
    for (const counter of [1, 2]) {
      const raised = await call('increment_counter', { session })
      expect(raised?.structuredContent).toMatchObject({ counter })
    }
    expect(await runTool(its, 'get_counter', { session })).toMatchObject({ counter: 2 })
    expect(await call('increment_counter')).toMatchObject({ isError: true })
  })

  it('says why it cannot ask that client', async () => {
    const session = await openHandle(its)
    await runTool(its, 'add_note', { session, note: 'x' })
    expect(await call('clear_notes', { session })).toMatchObject({
      isError: true,
      content: [{ text: 'Cannot ask the client: it has neither session nor revision for it' }],
    })
    expect(await runTool(its, 'list_notes', { session })).toMatchObject({ notes: ['x'] })
  })

  it('asks a client of the revision without', async () => {
    const session = await openHandle(its)
    const more = { capabilities: { elicitation: {} } }
    const { result } = await replyTo(await its(askTool('clear_notes', { session }, more)))
    expect(result?.['resultType']).toBe('input_required')
  })

  it('takes an id that it was given by another for none', async () => {
    const headers = { 'mcp-session-id': 'x', 'mcp-protocol-version': '2025-06-18' }
    const response = await say(toolCall('get_server_info'), headers)
    expect([response.status, response.headers.has('mcp-session-id')]).toEqual([200, false])
    expect((await replyTo(response)).result?.isError).toBe(false)
  })

  it.each(['GET', 'DELETE'])('knows no %s', async (method) => {
    const headers = { host: 'localhost', accept: 'text/event-stream', 'mcp-session-id': 'x' }
    const response = await its(new Request(`${BASE}/mcp`, { method, headers }))
    expect([response.status, response.headers.get('allow')]).toEqual([405, 'POST'])
  })

  it.each<[what: string, body: string, code: number]>([
    ['a batch', JSON.stringify([toolCall('open_session')]), -32600],
    ['no JSON', '{', -32700],
  ])('refuses %s', async (_what, text, code) => {
    const response = await its(post(text))
    expect(response.status).toBe(400)
    expect((await replyTo(response)).error?.code).toBe(code)
  })
})
