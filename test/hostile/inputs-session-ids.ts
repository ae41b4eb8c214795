import { callTool, endSession, initialize, openSession, rpc, toolCall } from '../support/mcp.ts'
import { bytesOf } from './raw.ts'
import { bare, INCREMENT, NOT_FOUND, own, READ, sendTo, toSession } from './inputs.ts'
import type { Answer, InputRow, StoryRow } from './inputs.ts'
import type { Scene } from './snapshot.ts'

const INVALID: Answer = { status: 400, code: -32600 }

/** Nothing that could be an id of ours, so nothing that is worth a look into a store. */
const MALFORMED_IDS: readonly ((id: string) => string)[] = [
  () => '*',
  () => '?',
  () => '[a-z]',
  () => '{x}',
  () => 'a:counter',
  () => '__proto__',
  () => '',
  (id) => `\u00e9${id.slice(1)}`,
  () => 'x'.repeat(10_000),
  (id) => `${id}/../${id}`,
  (id) => Array.from(id, flipped).join(''),
  tampered,
]

export const SESSION_ID: readonly InputRow[] = [
  {
    row: '47',
    what: 'no session id',
    send: own({ headers: { 'mcp-session-id': undefined } }),
    answer: { status: 400, code: -32000, type: 'session_required' },
  },
  ...MALFORMED_IDS.map((made, at) => ({
    row: '49',
    what: `session id "${made('<id>').slice(0, 20)}", number ${at}`,
    send: ({ own: id }: Scene) => bytesOf(toSession(made(id), {})),
    answer: NOT_FOUND,
  })),
  {
    row: '50',
    what: 'one session id twice',
    send: ({ own: id }) => bytesOf(toSession('', { headers: { 'mcp-session-id': [id, id] } })),
    answer: INVALID,
  },
  {
    row: '50b',
    what: 'two session ids',
    send: ({ own: id, canary }) =>
      bytesOf(toSession('', { headers: { 'mcp-session-id': [id, canary] } })),
    answer: INVALID,
  },
  {
    row: '51',
    what: 'spaces around a session id, which HTTP takes away',
    send: ({ own: id }) => bytesOf(toSession(` ${id} \t `, { body: READ })),
    answer: { status: 200 },
  },
]

/** What is answered for any session that there is not, whatever the reason. */
export const SAME_FOR_ALL =
  '404 {"jsonrpc":"2.0","id":null,"error":{"code":-32001,"message":"Session not found","data":{"type":"session_not_found"}}}'

export const SESSION_STORIES: readonly StoryRow[] = [
  {
    row: '48',
    what: 'an id that was ended, tampered with, made up or never one: answers alike to the byte',
    plays: async (scene) => {
      const ended = await openSession(scene.fetch)
      await endSession(scene.fetch, ended)
      const answers = new Set<string>()
      for (const id of [ended, tampered(ended), 'f'.repeat(64), 'A'.repeat(44), 'x']) {
        for (const bytes of allRequestsTo(id)) {
          const { status, body } = await sendTo(scene, bytes)
          answers.add(`${status} ${body}`)
        }
      }
      return [...answers]
    },
    gives: [SAME_FOR_ALL],
    opens: true,
  },
  {
    row: '49b',
    what: 'ids that can be none: the store is asked for no session, and no object is made',
    plays: async (scene) => {
      const session = await openSession(scene.fetch)
      return scene.asked(async () => {
        for (const made of MALFORMED_IDS) {
          for (const bytes of allRequestsTo(made(session))) await sendTo(scene, bytes)
        }
      })
    },
    gives: [],
    // Its store is its own memory: there is nothing in between to look at.
    on: { node: undefined },
    opens: true,
  },
  {
    row: '53',
    what: 'resume_session from ids that are none, which counts as one without state',
    plays: async (scene) => {
      const copied = []
      for (const made of MALFORMED_IDS) {
        const args = { old_session_id: made(scene.own) }
        copied.push(await callTool(scene.fetch, scene.own, 'resume_session', args))
      }
      return [
        ...new Set(
          copied.map(({ status, keys_copied: keys }) => `${String(status)} ${String(keys)}`),
        ),
      ]
    },
    gives: ['resumed 0'],
  },
  {
    row: '54',
    what: 'resume_session from itself',
    plays: async ({ fetch, own: session }) => {
      const args = { old_session_id: session }
      return (await callTool(fetch, session, 'resume_session', args))['status']
    },
    gives: 'same_session',
  },
  {
    row: '55',
    what: 'resume_session into a session that has state',
    plays: async ({ fetch, own: session, canary }) => {
      const call = toolCall('resume_session', { old_session_id: canary })
      return (await rpc(fetch, session, call)).result?.isError
    },
    gives: true,
  },
  {
    row: '56',
    what: 'resume_session again under its key, after changes: they stay',
    plays: async (scene) => {
      const [old, session] = [await openSession(scene.fetch), await openSession(scene.fetch)]
      await callTool(scene.fetch, old, 'increment_counter')
      const body = JSON.stringify(toolCall('resume_session', { old_session_id: old }))
      const resume = toSession(session, { body, headers: { 'idempotency-key': 'resume' } })
      const first = await sendTo(scene, bytesOf(resume))
      await callTool(scene.fetch, session, 'increment_counter')
      const second = await sendTo(scene, bytesOf(resume))
      const { counter } = await callTool(scene.fetch, session, 'get_counter')
      return { same: first.body === second.body, counter }
    },
    gives: { same: true, counter: 2 },
    opens: true,
  },
  {
    row: '57',
    what: 'two sessions resume one at once: both have a copy, for it is not moved',
    plays: async ({ fetch, own: old }) => {
      const sessions = [await openSession(fetch), await openSession(fetch)]
      const args = { old_session_id: old }
      const copies = sessions.map((session) => callTool(fetch, session, 'resume_session', args))
      return (await Promise.all(copies)).map(({ keys_copied: keys }) => keys)
    },
    gives: [2, 2],
    opens: true,
  },
  {
    row: '57b',
    what: 'the summaries of sessions that are none',
    plays: async ({ fetch, own: session }) => {
      const codes = MALFORMED_IDS.map(async (made) => {
        const uri = `resource://session/${encodeURIComponent(made(session))}/summary`
        const read = { jsonrpc: '2.0', id: 1, method: 'resources/read', params: { uri } }
        const { error, result } = await rpc(fetch, session, read)
        return result ?? error?.code
      })
      return [...new Set(await Promise.all(codes))]
    },
    gives: [-32602],
  },
]

/** All that can be asked of a session. */
export function allRequestsTo(id: string): Uint8Array[] {
  const posts = [INCREMENT, JSON.stringify(initialize)]
  return [
    ...posts.map((body) => bytesOf(toSession(id, { body }))),
    ...['GET', 'DELETE'].map((method) => bare(method)({ own: id })),
  ]
}

function tampered(id: string): string {
  const at = id.length / 2
  return id.slice(0, at) + (id[at] === '0' ? '1' : '0') + id.slice(at + 1)
}

function flipped(char: string): string {
  return char === char.toLowerCase() ? char.toUpperCase() : char.toLowerCase()
}
