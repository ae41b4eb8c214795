import { describe, expect, it } from 'vitest'
import {
  ANALYSIS_PROGRESS,
  analysisLogs,
  BASE,
  callTool,
  collect,
  initialize,
  isStream,
  openSession,
  post,
  POST_HEADERS,
  readEvents,
  rpc,
  send,
  TOOL_NAMES,
  toolCall,
  until,
  type Fetch,
  type RpcReply,
  type SseEvent,
} from '../support/mcp.ts'

/** What a session does for its clients, on every topology. */
export function sessionsContract(name: string, fetch: Fetch): void {
  describe(`sessions: ${name}`, () => {
    it('lists its ten tools in their order, each with an open output schema', async () => {
      const session = await openSession(fetch)
      const list = { jsonrpc: '2.0', id: 1, method: 'tools/list' }
      const { result } = await rpc(fetch, session, list)
      const listed = result?.['tools'] as { name: string; outputSchema: object }[]
      expect(listed.map((tool) => tool.name)).toEqual(TOOL_NAMES)
      for (const { outputSchema } of listed) {
        expect(outputSchema).toEqual({ type: 'object', additionalProperties: true })
      }
    })

    it('answers a plain call as JSON, as text and as an object', async () => {
      const session = await openSession(fetch)
      const response = await send(fetch, session, toolCall('increment_counter'))
      expect(response.headers.get('content-type')).toBe('application/json')
      expect(response.headers.get('mcp-session-id')).toBe(session)
      const { result } = (await response.json()) as RpcReply
      expect(result).toEqual({
        content: [{ type: 'text', text: JSON.stringify(result?.structuredContent) }],
        structuredContent: { counter: 1, instance: expect.stringMatching(/^[\w-]+$/) },
        isError: false,
      })
    })

    it('keeps counters, notes and sessions apart', async () => {
      const [a, b] = [await openSession(fetch), await openSession(fetch)]
      for (const note of ['x', 'y', 'x']) await callTool(fetch, a, 'add_note', { note })
      await callTool(fetch, a, 'increment_counter')
      expect(await callTool(fetch, a, 'list_notes')).toMatchObject({ notes: ['x', 'y', 'x'] })
      expect(await callTool(fetch, b, 'list_notes')).toMatchObject({ notes: [] })
      expect(await callTool(fetch, b, 'get_counter')).toMatchObject({ counter: 0 })
    })

    it('applies 200 increments that come at once exactly once each', async () => {
      const session = await openSession(fetch)
      const waves = Array.from({ length: 4 }, (_, wave) => wave)
      const seen: unknown[] = []
      for (const _wave of waves) {
        const calls = Array.from({ length: 50 }, () =>
          callTool(fetch, session, 'increment_counter'),
        )
        for (const { counter } of await Promise.all(calls)) seen.push(counter)
      }
      expect(seen.toSorted((x, y) => Number(x) - Number(y))).toEqual(
        Array.from({ length: 200 }, (_, n) => n + 1),
      )
    })

    it('tells its status in the shapes of the reference', async () => {
      const session = await openSession(fetch)
      const status = await callTool(fetch, session, 'get_status')
      expect(Object.keys(status)).toEqual([
        'instance',
        'uptime_seconds',
        'active_sessions',
        'timestamp',
      ])
      expect(String(status['timestamp'])).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00$/)
      expect(Number(status['uptime_seconds']) * 10).toBeCloseTo(
        Math.round(Number(status['uptime_seconds']) * 10),
      )
      const info = await callTool(fetch, session, 'get_server_info')
      expect(info).toEqual({ instance: status['instance'], sessions: expect.any(Number) })
    })

    it('analyzes with the messages of the reference, in its order', async () => {
      const session = await openSession(fetch)
      const call = withToken(toolCall('analyze_data', { num_items: 3 }), 'token')
      const response = await send(fetch, session, call)
      expect(isStream(response)).toBe(true)
      const [priming, ...events] = await collect(readEvents(response))
      expect(priming).toMatchObject({ data: '', id: expect.stringMatching(/\.1$/) })
      expect(Number(priming?.retry)).toBeGreaterThan(0)
      const said = events.map(({ data }) => JSON.parse(data) as Said)
      const { instance } = said.at(-1)?.result?.structuredContent ?? {}
      expect(said.flatMap(logged)).toEqual(analysisLogs(String(instance)))
      expect(said.flatMap(progressed)).toEqual(ANALYSIS_PROGRESS.map((step) => ['token', ...step]))
      expect(said.at(-1)).toMatchObject({
        id: 1,
        result: { structuredContent: { items_processed: 3, total_score: 9, instance } },
      })
      const places = events.map(({ id }) => Number(id.split('.')[1]))
      expect(places).toEqual(places.toSorted((x, y) => x - y))
      expect(new Set(events.map(({ id }) => id)).size).toBe(events.length)
    })

    it('watches a counter that another request raises', async () => {
      const session = await openSession(fetch)
      const stream = readEvents(
        await send(fetch, session, toolCall('watch_counter', { duration_seconds: 3 })),
      )
      await stream.next()
      await stream.next()
      await callTool(fetch, session, 'increment_counter')
      const said = (await collect(stream)).map(({ data }) => JSON.parse(data) as Said)
      expect(said.flatMap(logged)).toEqual([
        ['info', 'Counter changed: 0 -> 1'],
        ['info', 'Watch complete. 1 change(s) detected.'],
      ])
      expect(said.at(-1)?.result?.structuredContent).toMatchObject({
        changes: [{ from: 0, to: 1, at: expect.any(Number) }],
        total_changes: 1,
      })
    })

    it('shows a session of the caller as a resource, and no other', async () => {
      const session = await openSession(fetch)
      await callTool(fetch, session, 'increment_counter')
      await callTool(fetch, session, 'add_note', { note: 'n' })
      const own = await rpc(fetch, session, readSummary(session))
      const contents = own.result?.['contents'] as { text: string; mimeType: string }[] | undefined
      const content = contents?.[0]
      expect(content?.mimeType).toBe('text/plain')
      expect(JSON.parse(content?.text ?? '')).toEqual({
        session_id: session,
        counter: 1,
        notes: ['n'],
        analysis_result: null,
        instance: expect.any(String),
      })
      const other = await rpc(fetch, session, readSummary('f'.repeat(64)))
      expect(other.error?.message).toContain('not found')
    })

    it('copies all state keys of another session into one that has none', async () => {
      const [old, fresh] = [await openSession(fetch), await openSession(fetch)]
      for (let n = 0; n < 3; n++) await callTool(fetch, old, 'increment_counter')
      await callTool(fetch, old, 'add_note', { note: 'a' })
      const args = { old_session_id: old }
      expect(await callTool(fetch, fresh, 'resume_session', args)).toMatchObject({
        status: 'resumed',
        keys_copied: 2,
      })
      expect(await callTool(fetch, fresh, 'increment_counter')).toMatchObject({ counter: 4 })
      expect(await callTool(fetch, fresh, 'list_notes')).toMatchObject({ notes: ['a'] })
      expect(await callTool(fetch, old, 'get_counter')).toMatchObject({ counter: 3 })
      expect(await callTool(fetch, old, 'resume_session', args)).toMatchObject({
        status: 'same_session',
      })
      const again = await rpc(fetch, fresh, toolCall('resume_session', args))
      expect(again.result).toMatchObject({ isError: true })
      expect(await callTool(fetch, fresh, 'get_counter')).toMatchObject({ counter: 4 })
    })

    it.each(['?'.repeat(32), '*', 'f'.repeat(64), ''])('resumes nothing from "%s"', async (old) => {
      const session = await openSession(fetch)
      expect(await callTool(fetch, session, 'resume_session', { old_session_id: old })).toEqual({
        status: 'resumed',
        keys_copied: 0,
        instance: expect.any(String),
      })
      expect(await callTool(fetch, session, 'get_counter')).toMatchObject({ counter: 0 })
    })

    it('answers two calls in flight with one JSON-RPC id each on its own', async () => {
      const session = await openSession(fetch)
      const [slow, quick] = await Promise.all([
        rpc(fetch, session, toolCall('analyze_data', { num_items: 1 }, 1)),
        rpc(fetch, session, toolCall('add_note', { note: 'n' }, 1)),
      ])
      expect(slow).toMatchObject({ id: 1, result: { structuredContent: { items_processed: 1 } } })
      expect(quick).toMatchObject({ id: 1, result: { structuredContent: { notes_count: 1 } } })
    })

    it('answers with the id that it was asked with, be it 0, text or 256 characters', async () => {
      const session = await openSession(fetch)
      for (const id of [0, -1, '', 'abc', 'x'.repeat(256)]) {
        expect(await rpc(fetch, session, toolCall('get_counter', {}, id))).toMatchObject({ id })
      }
    })

    it('gives the first reply to a call that comes again under its key', async () => {
      const session = await openSession(fetch)
      const first = await keyed(fetch, session, 'k1', toolCall('increment_counter', {}, 1))
      await callTool(fetch, session, 'increment_counter')
      const again = await keyed(fetch, session, 'k1', toolCall('increment_counter', {}, 9))
      expect(again).toEqual({ ...first, id: 9 })
      expect(await callTool(fetch, session, 'get_counter')).toMatchObject({ counter: 2 })
    })

    it('takes the key from _meta before params, and from params before the header', async () => {
      const session = await openSession(fetch)
      const call = toolCall('increment_counter') as { params: object }
      const meta = { _meta: { 'dev.holdfast/idempotency-key': 'meta' } }
      const both = { ...call, params: { ...call.params, ...meta, idempotencyKey: 'params' } }
      const inParams = { ...call, params: { ...call.params, idempotencyKey: 'params' } }
      await keyed(fetch, session, 'header', both)
      await keyed(fetch, session, 'header', inParams)
      await keyed(fetch, session, 'header', call)
      expect(await callTool(fetch, session, 'get_counter')).toMatchObject({ counter: 3 })
      await keyed(fetch, session, 'another', both)
      await keyed(fetch, session, 'another', inParams)
      await keyed(fetch, session, 'header', call)
      expect(await callTool(fetch, session, 'get_counter')).toMatchObject({ counter: 3 })
    })

    it('refuses a key that was used for other arguments, and one that is none', async () => {
      const session = await openSession(fetch)
      await keyed(fetch, session, 'k', toolCall('add_note', { note: 'a' }))
      const other = await keyed(fetch, session, 'k', toolCall('add_note', { note: 'b' }))
      expect(other.error).toMatchObject({ code: 4091, data: { type: 'idempotency_key_conflict' } })
      const long = await keyed(fetch, session, 'x'.repeat(129), toolCall('increment_counter'))
      expect(long.error?.code).toBe(-32600)
      expect(await callTool(fetch, session, 'list_notes')).toMatchObject({ notes: ['a'] })
    })

    it('gives a call that comes again its first reply, though it would change nothing now', async () => {
      const [old, fresh] = [await openSession(fetch), await openSession(fetch)]
      await callTool(fetch, old, 'increment_counter')
      const call = toolCall('resume_session', { old_session_id: old })
      const first = await keyed(fetch, fresh, 'k', call)
      expect(first.result?.structuredContent).toMatchObject({ keys_copied: 1 })
      const headers = { 'mcp-session-id': old, host: POST_HEADERS.host }
      await fetch(new Request(`${BASE}/mcp`, { method: 'DELETE', headers }))
      expect(await keyed(fetch, fresh, 'k', call)).toEqual(first)
    })

    it('answers a streamed call that comes again under the id of the new request', async () => {
      const session = await openSession(fetch)
      const args = { num_items: 0 }
      await keyedEvents(fetch, session, 'k', toolCall('analyze_data', args, 'first'))
      const again = await keyedEvents(fetch, session, 'k', toolCall('analyze_data', args, 'second'))
      expect(JSON.parse(again.at(-1)?.data ?? '')).toMatchObject({ id: 'second', result: {} })
    })

    it('keeps the keys of different sessions apart', async () => {
      const [a, b] = [await openSession(fetch), await openSession(fetch)]
      await keyed(fetch, a, 'k', toolCall('increment_counter'))
      await keyed(fetch, b, 'k', toolCall('increment_counter'))
      expect(await callTool(fetch, b, 'get_counter')).toMatchObject({ counter: 1 })
    })

    it('attaches a call that comes again while it runs', async () => {
      const session = await openSession(fetch)
      const call = toolCall('analyze_data', { num_items: 1 })
      const [first, again] = await Promise.all([
        keyedEvents(fetch, session, 'k', call),
        keyedEvents(fetch, session, 'k', call),
      ])
      const longer = first.length > again.length ? first : again
      expect(longer.at(-1)?.data).toContain('"items_processed":1')
      const replayed = await keyedEvents(fetch, session, 'k', call)
      expect(replayed.map(({ id }) => id)).toEqual(longer.map(({ id }) => id))
    })

    it('resumes a stream behind any of its events, live and when it is over', async () => {
      const session = await openSession(fetch)
      const stream = readEvents(
        await send(fetch, session, toolCall('analyze_data', { num_items: 2 })),
      )
      const seen: SseEvent[] = []
      for (let n = 0; n < 3; n++) seen.push((await stream.next()).value as SseEvent)
      await stream.return(undefined)
      const rest = await collect(readEvents(await resume(fetch, session, seen.at(-1)?.id)))
      expect(rest[0]).toMatchObject({ id: seen.at(-1)?.id, data: '' })
      const whole = [...seen, ...rest.slice(1)]
      const places = whole.map(({ id }) => Number(id.split('.')[1]))
      expect(places).toEqual([...new Set(places)].toSorted((a, b) => a - b))
      expect(whole.at(-1)?.data).toContain('"total_score":4.5')
      for (const [index, { id }] of whole.entries()) {
        const replayed = await collect(readEvents(await resume(fetch, session, id)))
        expect(replayed.slice(1)).toEqual(whole.slice(index + 1))
      }
    })

    it('refuses event ids that it did not send to this session', async () => {
      const [a, b] = [await openSession(fetch), await openSession(fetch)]
      const events = await keyedEvents(fetch, a, 'k', toolCall('analyze_data', { num_items: 0 }))
      const last = events.at(-1)?.id ?? ''
      const [stream, place] = last.split('.')
      for (const [session, id] of [
        [b, last],
        [b, `${stream}.1`],
        [a, `${stream}.${Number(place) + 1}`],
        [a, `${stream}.999999999`],
        [a, `${stream}`],
      ] as const) {
        const response = await resume(fetch, session, id)
        expect(response.status).toBe(400)
        expect(((await response.json()) as RpcReply).error?.data?.type).toBe('event_id_unknown')
      }
    })

    it('tells subscribers on the GET stream, where the newest GET takes over', async () => {
      const session = await openSession(fetch)
      const uri = `resource://session/${session}/summary`
      const subscribe = { jsonrpc: '2.0', id: 1, method: 'resources/subscribe', params: { uri } }
      const first = readEvents(await resume(fetch, session))
      const priming = (await first.next()).value as SseEvent
      await callTool(fetch, session, 'increment_counter')
      expect(await rpc(fetch, session, subscribe)).toMatchObject({ result: {} })
      await callTool(fetch, session, 'increment_counter')
      const event = (await first.next()).value as SseEvent
      const notification = { method: 'notifications/resources/updated', params: { uri } }
      expect(JSON.parse(event.data)).toMatchObject(notification)

      const second = readEvents(await resume(fetch, session))
      expect((await second.next()).value).toMatchObject({ id: event.id, data: '' })
      const [farewell, ...more] = await collect(first)
      expect({ retry: Number(farewell?.retry), more }).toEqual({ retry: 60_000, more: [] })
      await callTool(fetch, session, 'add_note', { note: 'n' })
      const next = (await second.next()).value as SseEvent
      expect(JSON.parse(next.data)).toMatchObject(notification)
      await second.return(undefined)

      const replay = readEvents(await resume(fetch, session, priming.id))
      const ids = []
      for (let n = 0; n < 3; n++) ids.push(((await replay.next()).value as SseEvent).id)
      expect(ids).toEqual([priming.id, event.id, next.id])
      await replay.return(undefined)
      await rpc(fetch, session, { ...subscribe, method: 'resources/unsubscribe' })
      await callTool(fetch, session, 'increment_counter')
      const quiet = await resume(fetch, session)
      expect(((await readEvents(quiet).next()).value as SseEvent).id).toBe(next.id)
    })

    it('sends only the log messages that the client asked for', async () => {
      const session = await openSession(fetch)
      const params = { level: 'info' }
      await rpc(fetch, session, { jsonrpc: '2.0', id: 1, method: 'logging/setLevel', params })
      const events = await keyedEvents(
        fetch,
        session,
        'k',
        toolCall('analyze_data', { num_items: 1 }),
      )
      const levels = events.flatMap(({ data }) => (data ? logged(JSON.parse(data) as Said) : []))
      expect(levels.map(([level]) => level)).toEqual(['info', 'info', 'info'])
    })

    it('ends a call that the client cancels, with nothing half done', async () => {
      const session = await openSession(fetch)
      const call = toolCall('analyze_data', { num_items: 50 }, 'mine')
      const stream = readEvents(await send(fetch, session, call))
      await stream.next()
      const params = { requestId: 'mine' }
      await send(fetch, session, { jsonrpc: '2.0', method: 'notifications/cancelled', params })
      const events = await collect(stream)
      expect(JSON.parse(events.at(-1)?.data ?? '')).toMatchObject({
        id: 'mine',
        error: { code: -32800 },
      })
      const summary = await rpc(fetch, session, readSummary(session))
      expect(JSON.stringify(summary)).toContain('\\"analysis_result\\": null')
    })

    it('runs a call to its end when the client that asked has gone', async () => {
      const session = await openSession(fetch)
      const response = await send(fetch, session, toolCall('analyze_data', { num_items: 1 }))
      await response.body?.cancel()
      const summary = (): Promise<RpcReply> => rpc(fetch, session, readSummary(session))
      await until(summary, (reply) => JSON.stringify(reply).includes('items_processed'))
    })

    it('ends a stream whose session is ended, and the call with it', async () => {
      const session = await openSession(fetch)
      const stream = readEvents(
        await send(fetch, session, toolCall('analyze_data', { num_items: 50 })),
      )
      await stream.next()
      const headers = { 'mcp-session-id': session, host: POST_HEADERS.host }
      const removed = await fetch(new Request(`${BASE}/mcp`, { method: 'DELETE', headers }))
      expect(removed.status).toBe(200)
      await collect(stream)
      expect((await send(fetch, session, toolCall('get_counter'))).status).toBe(404)
    })

    it('begins sessions in every revision that has them, and offers its newest to others', async () => {
      for (const [asked, given] of [
        ['2025-11-25', '2025-11-25'],
        ['2025-06-18', '2025-06-18'],
        ['2025-03-26', '2025-03-26'],
        ['2024-11-05', '2025-11-25'],
        ['1999-01-01', '2025-11-25'],
      ]) {
        const params = { ...initialize.params, protocolVersion: asked }
        const response = await fetch(post(JSON.stringify({ ...initialize, params })))
        expect(((await response.json()) as RpcReply).result?.['protocolVersion']).toBe(given)
      }
    })
  })
}

interface Said extends RpcReply {
  readonly method?: string
  readonly params?: {
    readonly level?: string
    readonly data?: { readonly msg: string; readonly extra: null }
    readonly progressToken?: string
    readonly progress?: number
    readonly total?: number
    readonly message?: string
  }
}

function logged({ method, params }: Said): [unknown, unknown][] {
  if (method !== 'notifications/message') return []
  expect(Object.keys(params ?? {})).toEqual(['level', 'data'])
  expect(params?.data?.extra).toBeNull()
  return [[params?.level, params?.data?.msg]]
}

function progressed({ method, params }: Said): unknown[][] {
  if (method !== 'notifications/progress') return []
  return [[params?.progressToken, params?.progress, params?.total, params?.message]]
}

function withToken(call: object, progressToken: string): object {
  const { params, ...rest } = call as { params: object }
  return { ...rest, params: { ...params, _meta: { progressToken } } }
}

function readSummary(session: string): object {
  const uri = `resource://session/${session}/summary`
  return { jsonrpc: '2.0', id: 1, method: 'resources/read', params: { uri } }
}

async function keyed(fetch: Fetch, session: string, key: string, call: object): Promise<RpcReply> {
  const headers = { 'mcp-session-id': session, 'idempotency-key': key }
  return (await (await fetch(post(JSON.stringify(call), headers))).json()) as RpcReply
}

async function keyedEvents(
  fetch: Fetch,
  session: string,
  key: string,
  call: object,
): Promise<SseEvent[]> {
  const headers = { 'mcp-session-id': session, 'idempotency-key': key }
  return collect(readEvents(await fetch(post(JSON.stringify(call), headers))))
}

function resume(fetch: Fetch, session: string, lastEventId?: string): Promise<Response> {
  const headers = {
    accept: 'text/event-stream',
    host: POST_HEADERS.host,
    'mcp-session-id': session,
    ...(lastEventId !== undefined && { 'last-event-id': lastEventId }),
  }
  return fetch(new Request(`${BASE}/mcp`, { headers }))
}
