import { get, speakingCall } from '../support/client.ts'
import { callTool, collect, openSession, readEvents, rpc, type Fetch } from '../support/mcp.ts'
import { bare } from './inputs.ts'
import type { Answer, InputRow, StoryRow } from './inputs.ts'

const UNKNOWN: Answer = { status: 400, code: -32600, type: 'event_id_unknown' }

const IDS = ['garbage', 'AAAAAAAAAAAA.1', 'x.1', '', '.1', 'AAAAAAAAAAAA.-1', 'x'.repeat(5000)]

export const STREAMS: readonly InputRow[] = IDS.map((id) => ({
  row: '59',
  what: `Last-Event-ID "${id.slice(0, 20)}"`,
  send: bare('GET', { 'last-event-id': id }),
  answer: UNKNOWN,
}))

export const STREAM_STORIES: readonly StoryRow[] = [
  {
    row: '58',
    what: 'five streams of one session: each takes over, and what is said is said once',
    plays: async ({ fetch }) => {
      const session = await openSession(fetch)
      const uri = `resource://session/${session}/summary`
      const params = { uri }
      await rpc(fetch, session, { jsonrpc: '2.0', id: 1, method: 'resources/subscribe', params })
      const streams = []
      for (let count = 0; count < 5; count++) {
        const stream = readEvents(await fetch(get(session)))
        await stream.next()
        streams.push(stream)
      }
      await callTool(fetch, session, 'increment_counter')
      const last = streams.pop()
      const heard = (await last?.next())?.value?.data
      const others = (await Promise.all(streams.map(collect))).flat()
      await last?.return(undefined)
      return {
        heard: heard?.includes('notifications/resources/updated'),
        // Nothing but how long they are to stay away.
        others: others.map(({ data, retry }) => `${data}${retry}`),
      }
    },
    gives: { heard: true, others: ['60000', '60000', '60000', '60000'] },
    opens: true,
  },
  {
    row: '60',
    what: 'the event ids of another session, and ones that are still to come',
    plays: async ({ fetch, own }) => {
      const other = await openSession(fetch)
      const ids = await analysis(fetch, other)
      const [stream, place] = ids.at(-1)?.split('.') ?? []
      const future = [`${stream}.${Number(place) + 1}`, `${stream}.999999999`]
      const foreign = ids.map((id) => get(own, id))
      const toCome = future.map((id) => get(other, id))
      const answers = [...foreign, ...toCome].map(async (request) => {
        const response = await fetch(request)
        return `${response.status} ${await response.text()}`
      })
      return [...new Set(await Promise.all(answers))]
    },
    gives: [
      '400 {"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"Cannot resume stream: the session has sent no such event","data":{"type":"event_id_unknown"}}}',
    ],
    opens: true,
  },
  {
    row: '61',
    what: 'one of two streams resumed: nothing of the other',
    plays: async ({ fetch }) => {
      const session = await openSession(fetch)
      const [one, two] = await Promise.all([
        analysis(fetch, session, 'one'),
        analysis(fetch, session, 'two'),
      ])
      const resumed = await Promise.all(
        [one, two].map(async (ids) => {
          const events = await collect(readEvents(await fetch(get(session, ids[0]))))
          return events.map(({ id }) => id).join() === ids.join()
        }),
      )
      return { resumed, shared: one.filter((id) => two.includes(id)) }
    },
    gives: { resumed: [true, true], shared: [] },
    opens: true,
  },
]

/** The event ids of a short analysis. */
export async function analysis(
  fetch: Fetch,
  session: string,
  id: string | number = 1,
): Promise<string[]> {
  const request = speakingCall(session, 'analyze_data', { num_items: 0 }, id)
  const events = await collect(readEvents(await fetch(request)))
  return events.map((event) => event.id)
}
