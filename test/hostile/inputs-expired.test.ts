/** What was there once: asked for again on servers that forget soon. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { pause } from '../support/chaos.ts'
import { get } from '../support/client.ts'
import { callTool, openSession, until, type RpcReply } from '../support/mcp.ts'
import { allRequestsTo, SAME_FOR_ALL } from './inputs-session-ids.ts'
import { analysis } from './inputs-streams.ts'
import { exchange } from './raw.ts'
import { START, TOPOLOGIES, type Topology } from './topologies.ts'

const TTL_MS = 2000
const PATIENCE_MS = 20_000
const SETTINGS = { SESSION_TTL_SECONDS: '2', REPLY_RETENTION_SECONDS: '1' }

describe.each(TOPOLOGIES)('hostile input: %s that forgets', { concurrent: true }, (name) => {
  let server: Topology

  beforeAll(async () => {
    server = await START[name](SETTINGS)
  })
  afterAll(() => server.stop())

  // On the edge a session lives a minute longer than it must, so that not each use is a write: nothing to
  // wait for here. There it is tested with a clock of its own.
  const itExpires = name === 'edge' ? () => undefined : it
  itExpires('48b: an id that has expired, in every request', async () => {
    const session = await openSession(server.fetch)
    // Not asked for meanwhile: that would make it live longer.
    await pause(1.5 * TTL_MS)
    for (const bytes of allRequestsTo(session)) {
      const { status, body } = await exchange(server.port, bytes)
      expect(`${status} ${body}`).toBe(SAME_FOR_ALL)
    }
  })

  it('62: an event that is not kept any more', { timeout: PATIENCE_MS }, async () => {
    const session = await openSession(server.fetch)
    const ids = await analysis(server.fetch, session)
    const again = async (): Promise<Response> => {
      // What is over its time goes with the next write.
      await callTool(server.fetch, session, 'increment_counter')
      const response = await server.fetch(get(session, ids[0]))
      if (response.ok) await response.text()
      return response
    }
    const response = await until(again, ({ ok }) => !ok)
    const { error } = (await response.json()) as RpcReply
    expect({ status: response.status, code: error?.code, type: error?.data?.type }).toEqual({
      status: 400,
      code: -32600,
      type: 'event_id_unknown',
    })
  })
})
