import { get, speakingCall } from '../support/client.ts'
import {
  callTool,
  collect,
  endSession,
  openSession,
  readEvents,
  rpc,
  send,
  toolCall,
  until,
  type Fetch,
  type RpcReply,
} from '../support/mcp.ts'
import { askTool, openHandle, runTool } from '../support/stateless.ts'
import { bytesOf } from './raw.ts'
import { replyIn, sendTo, toSession, type StoryRow } from './inputs.ts'
import { summaryOf, type Scene } from './snapshot.ts'

const RACES = 20

// Row 64, a reader that never reads: the tools here say so little that the buffers of its connection take
// it all, so that nobody could be cut.
export const CONCURRENCY: readonly StoryRow[] = [
  {
    row: '65',
    what: 'a second request under the id of one in flight: each is answered',
    plays: async ({ fetch }) => {
      const session = await openSession(fetch)
      const [slow, quick] = await Promise.all([
        rpc(fetch, session, toolCall('analyze_data', { num_items: 0 })),
        rpc(fetch, session, toolCall('increment_counter')),
      ])
      const { instance: _, ...counted } = quick.result?.structuredContent ?? {}
      return { ids: [slow.id, quick.id], counted, slow: slow.result?.isError }
    },
    gives: { ids: [1, 1], counted: { counter: 1 }, slow: false },
    opens: true,
  },
  {
    row: '66',
    what: 'one key for one call: one effect, one answer',
    plays: async (scene) => {
      const session = await openSession(scene.fetch)
      const replies = [await keyed(scene, session, 'a'), await keyed(scene, session, 'a')]
      const { notes } = await callTool(scene.fetch, session, 'list_notes')
      return { same: JSON.stringify(replies[0]) === JSON.stringify(replies[1]), notes }
    },
    gives: { same: true, notes: ['a'] },
    opens: true,
  },
  {
    row: '67',
    what: 'one key for two calls: the second is refused',
    plays: async (scene) => {
      const session = await openSession(scene.fetch)
      await keyed(scene, session, 'a')
      const { error } = await keyed(scene, session, 'b')
      const { notes } = await callTool(scene.fetch, session, 'list_notes')
      return { code: error?.code, type: error?.data?.type, notes }
    },
    gives: { code: 4091, type: 'idempotency_key_conflict', notes: ['a'] },
    opens: true,
  },
  {
    row: '68',
    what: 'one key in two sessions: nothing to do with each other',
    plays: async (scene) => {
      const sessions = [await openSession(scene.fetch), await openSession(scene.fetch)]
      const replies = [await keyed(scene, sessions[0] ?? '', 'a')]
      replies.push(await keyed(scene, sessions[1] ?? '', 'b'))
      return replies.map(({ result }) => result?.structuredContent?.['notes_count'])
    },
    gives: [1, 1],
    opens: true,
  },
  {
    row: '69',
    what: `${RACES} calls that are cancelled while they end: each took effect or did not`,
    plays: async ({ fetch }) => {
      const session = await openSession(fetch)
      const races = Array.from({ length: RACES }, (_, id) => race(fetch, session, id))
      const raised = (await Promise.all(races)).filter(Boolean).length
      const counter = await counterOf(fetch, session)
      // One that was cancelled may have taken effect before; one that was answered must have.
      return { tooFew: counter < raised, tooMany: counter > RACES }
    },
    gives: { tooFew: false, tooMany: false },
    opens: true,
  },
  {
    row: '70',
    what: 'a session that ends in the middle of a stream: the stream does too, and nothing follows',
    plays: async ({ fetch, kept }) => {
      const session = await openSession(fetch)
      const call = speakingCall(session, 'analyze_data', { num_items: 1 })
      const stream = readEvents(await fetch(call))
      await stream.next()
      await endSession(fetch, session)
      const rest = await collect(stream)
      const { status } = await send(fetch, session, toolCall('get_counter'))
      // By then the call would have ended.
      const other = await openSession(fetch)
      await callTool(fetch, other, 'analyze_data', { num_items: 1 })
      const left = (await kept()).filter((line) => line.includes(session) && line.includes('mcp:'))
      const wasTold = rest.some(({ data }) => data.includes('items_processed'))
      return { status, resumed: (await fetch(get(session))).status, wasTold, left }
    },
    gives: { status: 404, resumed: 404, wasTold: false, left: [] },
    opens: true,
  },
  {
    row: '71',
    what: 'a client that hangs up in the middle of a call: it runs to its end',
    plays: async (scene) => {
      const session = await openSession(scene.fetch)
      const call = speakingCall(session, 'analyze_data', { num_items: 1 })
      const stream = readEvents(await scene.fetch(call))
      const first = await stream.next()
      await stream.return(undefined)
      await until(() => summaryOf(scene, session), isAnalyzed)
      const events = await collect(readEvents(await scene.fetch(get(session, first.value?.id))))
      return events.at(-1)?.data.includes('items_processed')
    },
    gives: true,
    opens: true,
  },
  {
    row: '71b',
    what: 'a client without session that hangs up in the middle of a call: it stops',
    plays: async (scene) => {
      const session = await openHandle(scene.fetch)
      const args = { num_items: 1, session }
      const more = { level: 'debug', progressToken: 1 }
      const stream = readEvents(await scene.fetch(askTool('analyze_data', args, more)))
      await stream.next()
      await stream.return(undefined)
      // Begun later, so by its end the first would have ended too.
      const other = await openHandle(scene.fetch)
      await runTool(scene.fetch, 'analyze_data', { num_items: 1, session: other })
      return isAnalyzed(await summaryOf(scene, session))
    },
    gives: false,
    opens: true,
  },
]

/** Adds a note under the one key there is. */
async function keyed(scene: Scene, session: string, note: string): Promise<RpcReply> {
  const body = JSON.stringify(toolCall('add_note', { note }))
  const request = toSession(session, { body, headers: { 'idempotency-key': 'k' } })
  return replyIn((await sendTo(scene, bytesOf(request))).body) ?? {}
}

/** Whether a call was answered though it was cancelled at once. */
async function race(fetch: Fetch, session: string, id: number): Promise<boolean> {
  const cancelled = { jsonrpc: '2.0', method: 'notifications/cancelled', params: { requestId: id } }
  const answered = rpc(fetch, session, toolCall('increment_counter', {}, id))
  const accepted = send(fetch, session, cancelled)
  await (await accepted).text()
  return (await answered).result !== undefined
}

async function counterOf(fetch: Fetch, session: string): Promise<number> {
  return Number((await callTool(fetch, session, 'get_counter'))['counter'])
}

function isAnalyzed(summary: object): boolean {
  return JSON.stringify(summary).includes('items_processed')
}
