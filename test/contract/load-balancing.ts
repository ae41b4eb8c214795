import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  BASE,
  callTool,
  collect,
  openSession,
  readEvents,
  rpc,
  send,
  toolCall,
  type Fetch,
} from '../support/mcp.ts'

const INSTANCE = /^mcp-server-[123]$/
// Enough for a door that picks by chance to have picked two instances, for certain.
const MANY = 20

interface FrontDoor {
  readonly fetch: Fetch
  readonly stop: () => Promise<unknown>
}

/**
 * What a session is on several instances: seen from outside it is the same as on one. `affinity` says
 * whether the door knows a session's instance, or picks one anew for each request.
 */
export function loadBalancing(
  door: string,
  start: () => Promise<FrontDoor>,
  affinity: 'by session' | 'none',
): void {
  describe(`the fleet behind ${door}`, () => {
    let fleet: FrontDoor
    const open = async () => {
      const session = await openSession(fleet.fetch)
      return {
        session,
        call: (name: string, args = {}) => callTool(fleet.fetch, session, name, args),
      }
    }

    beforeAll(async () => {
      fleet = await start()
    })
    afterAll(() => fleet.stop())

    it(`serves all calls of a session, ${affinity === 'none' ? 'wherever they go' : 'on one instance'}`, async () => {
      const { call } = await open()
      const results = []
      for (let n = 1; n <= MANY; n++) results.push(await call('increment_counter'))
      expect(results.map(({ counter }) => counter)).toEqual(
        Array.from({ length: MANY }, (_, at) => at + 1),
      )
      const instances = new Set(results.map(({ instance }) => instance))
      if (affinity === 'none') expect(instances.size).toBeGreaterThan(1)
      else expect(instances.size).toBe(1)
      expect(results[0]?.['instance']).toMatch(INSTANCE)
    })

    it('spreads sessions over more than one instance', async () => {
      const instances = new Set()
      for (let n = 0; n < MANY; n++) {
        const { call } = await open()
        // Twice: three requests a session would all fall to the same one of three in turn.
        for (let time = 1; time <= 2; time++) {
          instances.add((await call('get_server_info'))['instance'])
        }
      }
      expect(instances.size).toBeGreaterThanOrEqual(2)
    })

    it('keeps sessions apart', async () => {
      const sessions = [await open(), await open()]
      for (const { call, session } of sessions) {
        for (let n = 0; n < 2; n++) await call('increment_counter')
        await call('add_note', { note: session })
      }
      for (const { call, session } of sessions) {
        expect(await call('get_counter')).toMatchObject({ counter: 2 })
        expect(await call('list_notes')).toMatchObject({ notes: [session] })
      }
    })

    it('is healthy', async () => {
      const response = await fleet.fetch(new Request(`${BASE}/health`))
      expect(response.status).toBe(200)
      expect(await response.json()).toEqual({
        status: 'ok',
        instance: expect.stringMatching(INSTANCE),
      })
    })

    it('tells its status', async () => {
      const { call } = await open()
      expect(await call('get_status')).toEqual({
        instance: expect.stringMatching(INSTANCE),
        uptime_seconds: expect.any(Number),
        active_sessions: expect.any(Number),
        timestamp: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00$/),
      })
    })

    it('counts the sessions that have state, the same on whichever instance is asked', async () => {
      const { call } = await open()
      const before = Number((await call('get_server_info'))['sessions'])
      await call('increment_counter')
      const answers = new Map<unknown, unknown>()
      for (let n = 0; n < MANY; n++) {
        const other = await open()
        for (let time = 1; time <= 2; time++) {
          const { instance, sessions } = await other.call('get_server_info')
          answers.set(instance, sessions)
        }
      }
      expect([...answers.values()]).toEqual(Array(answers.size).fill(before + 1))
      expect(answers.size).toBeGreaterThanOrEqual(2)
    })

    it('finds nothing to resume in the session that asks', async () => {
      const { call, session } = await open()
      await call('increment_counter')
      const resumed = await call('resume_session', { old_session_id: session })
      expect(resumed).toEqual({ status: 'same_session', instance: expect.stringMatching(INSTANCE) })
      expect(await call('get_counter')).toMatchObject({ counter: 1 })
    })

    it('keeps notes in the order in which they were added', async () => {
      const { call } = await open()
      const notes = ['first', 'second', 'third', 'first']
      for (const [index, note] of notes.entries()) {
        expect(await call('add_note', { note })).toMatchObject({ notes_count: index + 1 })
      }
      expect(await call('list_notes')).toMatchObject({ notes })
    })

    it('streams what a call says, and the first data line is a message', async () => {
      const { session } = await open()
      const response = await send(fleet.fetch, session, toolCall('analyze_data', { num_items: 3 }))
      expect(response.headers.get('content-type')).toBe('text/event-stream')
      const text = await response.clone().text()
      const first = text.split('\n').find((line) => line.startsWith('data: '))
      expect(JSON.parse(first?.slice('data: '.length) ?? '')).toMatchObject({ jsonrpc: '2.0' })

      const events = (await collect(readEvents(response))).filter(({ data }) => data !== '')
      expect(events).toHaveLength(8)
      const levels = events.map(({ data }) => /"level":"(\w+)"/.exec(data)?.[1])
      expect(levels.filter((level) => level === 'info')).toHaveLength(3)
      expect(levels.filter((level) => level === 'debug')).toHaveLength(4)
      expect(text).toMatch(/Starting analysis of 3 items on mcp-server-[123]"/)
      expect(text).toContain('Analysis complete: processed 3 items, total score=9.0')
    })

    it('shows all that a session remembers in its summary', async () => {
      const { call, session } = await open()
      for (let n = 0; n < 3; n++) await call('increment_counter')
      for (const note of ['alpha', 'beta']) await call('add_note', { note })
      // Its result comes at the end of a stream.
      await rpc(fleet.fetch, session, toolCall('analyze_data', { num_items: 2 }))
      const uri = `resource://session/${session}/summary`
      const read = { jsonrpc: '2.0', id: 1, method: 'resources/read', params: { uri } }
      const { result } = await rpc(fleet.fetch, session, read)
      const [content] = (result?.['contents'] ?? []) as { text: string }[]
      expect(JSON.parse(content?.text ?? '')).toEqual({
        session_id: session,
        counter: 3,
        notes: ['alpha', 'beta'],
        analysis_result: { total_score: 4.5, items_processed: 2 },
        instance: expect.stringMatching(INSTANCE),
      })
    })

    it('shows a watcher what another connection does in its session', async () => {
      const { call, session } = await open()
      const watch = toolCall('watch_counter', { duration_seconds: 3 })
      const stream = readEvents(await send(fleet.fetch, session, watch))
      // The priming event, and that the watch has begun.
      for (let n = 0; n < 2; n++) await stream.next()
      await call('increment_counter')
      const events = await collect(stream)
      expect(events.map(({ data }) => data).join()).toContain('Counter changed: 0 -> 1')
      expect(events.at(-1)?.data).toContain('"total_changes":1')
    })
  })
}
