import { describe, expect, it } from 'vitest'
import { callTool, openSession, rpc, type Fetch } from '../support/mcp.ts'
import { startWrangler, type Wrangler } from '../support/wrangler.ts'

const ROUNDS = 3
const WRITES_PER_ROUND = 350
const WRITERS = 8

describe('the edge, when all of it is killed with its storage kept', () => {
  it('goes on under every id and has every write that it acknowledged', async () => {
    let server: Wrangler = await startWrangler()
    const fetchNow: Fetch = (request) => fetch(new Request(server.url + '/mcp', request))
    const sessions = await Promise.all(Array.from({ length: WRITERS }, () => openSession(fetchNow)))
    const [quiet = ''] = sessions
    const params = { level: 'alert' }
    await rpc(fetchNow, quiet, { jsonrpc: '2.0', id: 1, method: 'logging/setLevel', params })
    const acknowledged = sessions.map(() => 0)

    for (let round = 1; round <= ROUNDS; round++) {
      const target = round * WRITES_PER_ROUND
      const total = (): number => acknowledged.reduce((sum, count) => sum + count, 0)
      // The last writer to see the target kills: the others are cut in the middle of a call.
      const writers = sessions.map(async (session, writer) => {
        while (total() < target) {
          const before = acknowledged[writer] ?? 0
          const { counter } = await callTool(fetchNow, session, 'increment_counter')
          expect(counter).toBeGreaterThan(before)
          acknowledged[writer] = Number(counter)
        }
        await server.kill()
      })
      for (const ended of await Promise.allSettled(writers)) {
        // Only the connection may have failed.
        if (ended.status === 'rejected') expect(ended.reason).toBeInstanceOf(TypeError)
      }
      server = await startWrangler({ port: server.port, state: server.state })
      for (const [writer, session] of sessions.entries()) {
        const { counter } = await callTool(fetchNow, session, 'get_counter')
        // At most the one call that was cut may have been applied without being acknowledged.
        expect(Number(counter) - (acknowledged[writer] ?? 0)).toBeOneOf([0, 1])
        acknowledged[writer] = Number(counter)
      }
    }

    const analysis = { jsonrpc: '2.0', id: 1, method: 'tools/call' }
    const call = { ...analysis, params: { name: 'analyze_data', arguments: { num_items: 0 } } }
    expect((await rpc(fetchNow, quiet, call)).result?.structuredContent).toBeDefined()
    await server.kill()
  })
})
