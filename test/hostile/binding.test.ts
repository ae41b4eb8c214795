/** Sessions of others: whatever a caller does with one, it is as if there were none. */
import type { JWTPayload } from 'jose'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { get } from '../support/client.ts'
import {
  callTool,
  collect,
  initialize,
  openSession,
  post,
  readEvents,
  send,
  toolCall,
  type Fetch,
  type RpcReply,
} from '../support/mcp.ts'
import { askTool, replyTo } from '../support/stateless.ts'
import { bearing, hashed } from './auth-callers.ts'
import { wholeAnswer, type WholeAnswer } from './binding-answers.ts'
import { createParty, keyedNote, noteOf, type Party, type Target } from './binding-parties.ts'
import { goOn, OPERATIONS, type Operation } from './binding-requests.ts'
import { startIssuer, type Issuer } from './issuer.ts'
import { summaryOf } from './snapshot.ts'
import { START, TOPOLOGIES, type Topology } from './topologies.ts'

const STATIC = { ann: 'token-of-ann', ben: 'token-of-ben' }
const SUBJECTS = ['eve', 'ian']

interface Stage {
  readonly server: Topology
  readonly issuer: Issuer
  /** Two of each kind. */
  readonly parties: readonly Party[]
}

describe.each(TOPOLOGIES)('a session of somebody else: %s', (name) => {
  const stage = {} as Stage

  beforeAll(async () => {
    const issuer = await startIssuer()
    const tokens = Object.entries(STATIC).map(([who, token]) => hashed(who, token, 'mcp'))
    const server = await START[name]({ ...issuer.settings, AUTH_TOKENS: tokens.join() })
    const jwts = SUBJECTS.map((sub) => issuer.sign({ claims: { sub } }))
    const shown = [...Object.values(STATIC), ...(await Promise.all(jwts))]
    const parties = shown.map((token, at) =>
      createParty(`caller ${at}`, bearing(server.fetch, token)),
    )
    Object.assign(stage, { server, issuer, parties: await Promise.all(parties) })
  })
  afterAll(async () => {
    await stage.server?.stop()
    await stage.issuer?.stop()
  })

  describe('who', () => {
    isAsNone(stage)
  })
  describe('an id', () => {
    isNoLicence(stage)
  })
  describe('a token', () => {
    mayChange(stage)
  })
})

function isAsNone(stage: Stage): void {
  it.each(OPERATIONS)('$what is told that there is none', async (operation) => {
    const before = await statesOf(stage)
    for (const [by, other] of pairsOf(stage)) {
      const answer = await answerTo(operation, other.live, by)
      expect(answer).toEqual(await answerTo(operation, other.ended, by))
      expect(answer.status).toBe(operation.status)
      expect(answer.body).toContain(operation.says ?? '')
      expect(answer.body).not.toContain(noteOf(other.name))
    }
    expect(await statesOf(stage)).toEqual(before)
  })

  it('calls under the same key has a call of its own', async () => {
    for (const { name, fetch, live } of stage.parties) {
      const { result } = await keyedNote(name, fetch, live.session)
      expect(result?.structuredContent).toMatchObject({ notes_count: 1 })
      expect(await notesOf(fetch, live.session)).toEqual([noteOf(name)])
    }
  })

  it('has tried it all has ended no call, and answered no question', async () => {
    for (const { fetch, live } of stage.parties) {
      const { result } = await replyTo(await fetch(goOn(live)))
      expect(result?.structuredContent).toMatchObject({ confirmed: true, notes_deleted: 1 })
      await callTool(fetch, live.session, 'add_note', { note: 'one more' })
      const { question: id, session } = live
      const reply = followed(fetch, live)
      const answer = { jsonrpc: '2.0', id, result: { action: 'decline' } }
      expect((await send(fetch, session, answer)).status).toBe(202)
      expect((await reply).result?.structuredContent).toMatchObject({ confirmed: false })
    }
  })
}

/** The reply at the end of a call's stream. */
async function followed(fetch: Fetch, { session, event }: Target): Promise<RpcReply> {
  const events = await collect(readEvents(await fetch(get(session, event))))
  return JSON.parse(events.at(-1)?.data ?? 'null') as RpcReply
}

function isNoLicence(stage: Stage): void {
  it('that a client has chosen is not taken, in whatever form', async () => {
    const [{ fetch, live, ended }] = stage.parties as [Party]
    const { session } = live
    const at = session.length - 1
    const forged = session.slice(0, at) + (session.endsWith('0') ? '1' : '0')
    const like = session.split('').toReversed().join('')
    for (const chosen of [ended.session, forged, like, 'mine']) {
      const begun = await fetch(post(JSON.stringify(initialize), { 'mcp-session-id': chosen }))
      expect([begun.status, begun.headers.get('mcp-session-id')]).toEqual([404, null])
      expect((await send(fetch, chosen, toolCall('get_counter'))).status).toBe(404)
      const opened = await replyTo(await fetch(askTool('open_session', { session: chosen })))
      expect(opened.result?.structuredContent?.['session']).not.toBe(chosen)
      expect((await send(fetch, chosen, toolCall('get_counter'))).status).toBe(404)
    }
  })
}

function mayChange(stage: Stage): void {
  it('may be a new one, if its issuer says the same of who has it', async () => {
    const { server, issuer } = stage
    const as = async (claims: JWTPayload) => bearing(server.fetch, await issuer.sign({ claims }))
    const session = await openSession(await as({ sub: 'zoe' }))
    await callTool(await as({ sub: 'zoe', jti: 'another' }), session, 'increment_counter')
    for (const sub of ['Zoe', 'zoe ', ' zoe', 'zo', 'ann']) {
      const response = await send(await as({ sub }), session, toolCall('get_counter'))
      expect(response.status).toBe(404)
    }
    const owner = await as({ sub: 'zoe' })
    expect(await callTool(owner, session, 'get_counter')).toMatchObject({ counter: 1 })
  })

  it('of an issuer’s is not a static one of that name', async () => {
    const { server, issuer, parties } = stage
    const ann = bearing(server.fetch, await issuer.sign({ claims: { sub: 'ann' } }))
    const { session } = parties[0]?.live ?? { session: '' }
    expect((await send(ann, session, toolCall('get_counter'))).status).toBe(404)
  })
}

/** Each with each of its own kind, both ways. */
function pairsOf({ parties }: Stage): (readonly [by: Party, other: Party])[] {
  const [ann, ben, eve, ian] = parties as [Party, Party, Party, Party]
  return [
    [ann, ben],
    [ben, ann],
    [eve, ian],
    [ian, eve],
  ]
}

async function answerTo({ request }: Operation, target: Target, by: Party): Promise<WholeAnswer> {
  const response = await by.fetch(request(target, by))
  return wholeAnswer(response, [target.session, target.event, target.question])
}

/** What their owners see of all sessions. */
async function statesOf({ server, parties }: Stage): Promise<object[]> {
  const seen = parties.flatMap(({ fetch, live, empty }) =>
    [live.session, empty].map((session) => summaryOf({ ...server, fetch }, session)),
  )
  return Promise.all(seen)
}

async function notesOf(fetch: Fetch, session: string): Promise<unknown> {
  return (await callTool(fetch, session, 'list_notes'))['notes']
}
