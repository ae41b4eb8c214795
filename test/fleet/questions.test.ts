/** Questions that outlive the instance that asked them: whole instances over one Redis. */
import {
  Client as ClientV2,
  StreamableHTTPClientTransport as TransportV2,
} from '@modelcontextprotocol/client'
import { createClient, type RedisClientType } from '@redis/client'
import { Client as ClientV1 } from '@modelcontextprotocol/sdk/client/index.js'
import { StreamableHTTPClientTransport as TransportV1 } from '@modelcontextprotocol/sdk/client/streamableHttp.js'
import { ElicitRequestSchema } from '@modelcontextprotocol/sdk/types.js'
import { afterAll, afterEach, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { createRedisStore } from '../../haproxy-compat/redis-store.ts'
import type { SessionId, StreamId } from '../../mcp/session/ids.ts'
import type { Entry, SessionStore } from '../../mcp/session/store.ts'
import { get, resuming } from '../support/client.ts'
import { startFleet, type Fleet } from '../support/fleet.ts'
import {
  callTool,
  collect,
  initialize,
  openSession,
  post,
  readEvents,
  rpc,
  send,
  toolCall,
  until,
  type Fetch,
  type RpcReply,
} from '../support/mcp.ts'
import { startNode, type NodeInstance } from '../support/node.ts'
import { startRedis, type RedisServer } from '../support/redis.ts'

const NOTES = ['first', 'second']
const YES = { action: 'accept', content: { confirm: true } }

let server: RedisServer
let redis: RedisClientType
let store: SessionStore

beforeAll(async () => {
  server = await startRedis()
  redis = createClient({ url: server.url })
  await redis.connect()
  store = createRedisStore(redis, {
    ttlMs: 1_800_000,
    replyRetentionMs: 300_000,
    maxRepliesPerSession: 1024,
    now: Date.now,
  })
})
afterEach(() => redis.flushAll())
afterAll(async () => {
  redis.destroy()
  await server.stop()
})

describe('a question', () => {
  it('is answered at another instance when the one that asked it was killed', async () => {
    const [a, b] = await instances()
    const asked = await ask(a)
    expect(asked.message).toBe('Delete all 2 notes of this session?')
    await a.kill('SIGKILL')
    await answer(b, asked, YES)
    await expectCleared(asked, b)
  })

  it('is answered at another instance while the one that asked it goes on', async () => {
    const [a, b] = await instances()
    const answered = async (): Promise<string[]> => {
      const asked = await ask(a)
      await answer(b, asked, YES)
      await expectCleared(asked, b)
      return kinds(asked)
    }
    // One that is too slow to keep its lease is as good as dead.
    const found = await until(answered, isNotTaken)
    expect(found).toEqual(['begin', 'did', 'message', 'answer', 'did', 'end'])
  })

  it('takes one answer of many, which come at once to two instances', async () => {
    const [a, b] = await instances()
    const asked = await ask(a)
    const no = { action: 'decline' }
    await Promise.all(
      Array.from({ length: 20 }, (_, n) => answer(n % 2 === 0 ? a : b, asked, n < 4 ? YES : no)),
    )
    await answer(b, asked, YES)
    const { confirmed, notes_deleted } = (await replyAt(b, asked)).result?.structuredContent ?? {}
    const { version, state } = (await store.load(asked.session))?.record ?? {}
    const found = await kinds(asked)
    expect(found.filter((kind) => kind === 'answer')).toHaveLength(1)
    // The first one counts, whichever that was.
    expect({ notes_deleted, version, state }).toEqual(
      confirmed === true
        ? { notes_deleted: 2, version: 3, state: { notes: [] } }
        : { notes_deleted: 0, version: 2, state: { notes: NOTES } },
    )
  })

  it('has its effect once if the instance that asked it is killed when it is answered', async () => {
    const killed = async (): Promise<string[]> => {
      const [a, b, c] = await instances(3)
      const all = await Promise.all(Array.from({ length: 8 }, () => ask(a)))
      const [first, ...others] = all
      // What this one finds when it is to go on is its end: the answer was taken, and had no effect yet.
      process.kill(a.pid, 'SIGSTOP')
      await Promise.all(others.map((asked) => answer(b, asked, YES)))
      const notes = await Promise.all(others.map(notesOf))
      const found = (await Promise.all(others.map(kinds))).flat()
      if (isNotTaken(found)) expect(notes).toEqual(others.map(() => NOTES))
      process.kill(a.pid, 'SIGKILL')
      if (first !== undefined) await answer(c, first, YES)
      await Promise.all(all.map((asked) => expectCleared(asked, b)))
      return found
    }
    // Its leases may have run out before it was killed.
    await until(killed, isNotTaken)
  })

  it('nor twice if it is killed while it is about it', async () => {
    const [a, b] = await instances()
    const all = await Promise.all(Array.from({ length: 40 }, () => ask(a)))
    const answered = Promise.all(all.map((asked) => answer(b, asked, YES)))
    // Of so many some have had their effect by now, and have not said so.
    while ((await notesOf(all[10]))?.length !== 0) continue
    await a.kill('SIGKILL')
    await answered
    await Promise.all(all.map((asked) => expectCleared(asked, b)))
    const found = await Promise.all(all.map(kinds))
    for (const kind of ['answer', 'end']) {
      const counts = found.map((its) => its.filter((one) => one === kind).length)
      expect(counts).toEqual(all.map(() => 1))
    }
    const between = found.filter((its) => its.lastIndexOf('did') < its.indexOf('taken'))
    console.log(`${between.length} of ${all.length} calls ended between their effect and their end`)
  })

  it('is answered when all instances were restarted', async () => {
    const old = await instances()
    const asked = await ask(old[0])
    await Promise.all(old.map((instance) => instance.kill('SIGKILL')))
    const [, b] = await instances()
    await answer(b, asked, YES)
    await expectCleared(asked, b)
  })

  it('is not answered by another session, nor by what answers nothing', async () => {
    const [a, b] = await instances()
    const [asked, other] = await Promise.all([ask(a), ask(a)])
    for (const id of [asked.question, `${asked.stream}/1`, `${asked.stream}/9`, 'x', 7]) {
      for (const { fetch } of [a, b]) {
        const foreign = { jsonrpc: '2.0', id, result: YES }
        expect((await send(fetch, other.session, foreign)).status).toBe(202)
        if (id === asked.question) continue
        expect((await send(fetch, asked.session, foreign)).status).toBe(202)
      }
    }
    for (const one of [asked, other]) {
      // One that is too slow to keep its lease is taken over.
      const found = (await kinds(one)).filter((kind) => kind !== 'taken')
      expect(found).toEqual(['begin', 'did', 'message'])
      expect(await notesOf(one)).toEqual(NOTES)
    }
    await answer(b, asked, YES)
    await expectCleared(asked, b)
    expect(await notesOf(other)).toEqual(NOTES)
  })

  it('changes nothing when its answer comes after the end', async () => {
    const [a, b] = await instances()
    const asked = await ask(a)
    await answer(a, asked, { action: 'cancel' })
    await replyAt(b, asked)
    const before = await log(asked)
    for (const instance of [a, b]) await answer(instance, asked, YES)
    expect(await log(asked)).toEqual(before)
    expect(await notesOf(asked)).toEqual(NOTES)
  })

  it.each([
    [{ action: 'decline' }],
    [{ action: 'cancel' }],
    [{ action: 'accept', content: { confirm: false } }],
  ])('that is answered with %j deletes nothing', async (result) => {
    const [a, b] = await instances()
    const asked = await ask(a)
    await answer(b, asked, result)
    const { result: told } = await replyAt(b, asked)
    expect(told?.structuredContent).toMatchObject({ confirmed: false, notes_deleted: 0 })
    expect(await notesOf(asked)).toEqual(NOTES)
  })

  it('that is answered with an error fails its call, and deletes nothing', async () => {
    const [a, b] = await instances()
    const asked = await ask(a)
    const error = { code: -32603, message: 'The user has left' }
    const said = { jsonrpc: '2.0', id: asked.question, error }
    expect((await send(b.fetch, asked.session, said)).status).toBe(202)
    const { result } = await replyAt(b, asked)
    expect(result).toMatchObject({ isError: true })
    expect(result?.content?.[0]?.text).toContain('The user has left')
    expect(await notesOf(asked)).toEqual(NOTES)
  })

  it('is not put to a client that can not ask, whose call says so', async () => {
    const [a] = await instances(1)
    const params = { ...initialize.params, capabilities: {} }
    const opened = await a.fetch(post(JSON.stringify({ ...initialize, params })))
    const session = opened.headers.get('mcp-session-id') ?? ''
    await opened.text()
    await callTool(a.fetch, session, 'add_note', { note: 'first' })
    const { result } = await rpc(a.fetch, session, toolCall('clear_notes'))
    expect(result?.isError).toBe(true)
    expect(result?.content?.[0]?.text).toMatch(/does not support .*elicitation/)
    expect(await callTool(a.fetch, session, 'list_notes')).toMatchObject({ notes: ['first'] })
  })
})

describe('official clients, through the fleet', () => {
  let fleet: Fleet

  beforeAll(async () => {
    fleet = await startFleet()
  })
  afterAll(() => fleet.stop())

  const capabilities = { elicitation: {} }

  it('v1 asks its user, though the instance that wants to know is killed meanwhile', async () => {
    const client = new ClientV1({ name: 'test', version: '0' }, { capabilities })
    await client.connect(new TransportV1(new URL(fleet.url)))
    onTestFinished(() => client.close())
    await expectAsked(client, (handle) => client.setRequestHandler(ElicitRequestSchema, handle))
  })

  it('v2 asks its user, though the instance that wants to know is killed meanwhile', async () => {
    const client = new ClientV2({ name: 'test', version: '0' }, { capabilities })
    await client.connect(new TransportV2(new URL(fleet.url)))
    onTestFinished(() => client.close())
    await expectAsked(client, (handle) => client.setRequestHandler('elicitation/create', handle))
  })

  type Handle = (request: { params: { message: string } }) => Promise<typeof CONFIRMED>
  const CONFIRMED = { action: 'accept' as const, content: { confirm: true } }

  async function expectAsked(
    client: ClientV1 | ClientV2,
    install: (handle: Handle) => void,
  ): Promise<void> {
    const questions: string[] = []
    const call = async (name: string, args = {}): Promise<Record<string, unknown>> =>
      (await client.callTool({ name, arguments: args })).structuredContent as Record<
        string,
        unknown
      >
    for (const note of NOTES) await call('add_note', { note })
    const holder = String((await call('get_server_info'))['instance'])
    install(async ({ params }) => {
      questions.push(params.message)
      fleet.signal(holder, 'SIGKILL')
      return CONFIRMED
    })
    expect(await call('clear_notes')).toMatchObject({ confirmed: true, notes_deleted: 2 })
    expect(questions).toEqual(['Delete all 2 notes of this session?'])
    expect(await call('list_notes')).toMatchObject({ notes: [] })
    await fleet.allAre('UP')
  }
})

interface Asked {
  readonly session: SessionId
  readonly stream: StreamId
  /** The question's JSON-RPC id, and that of its event. */
  readonly question: string
  readonly event: string
  readonly message: string
}

/** A session with two notes whose call to delete them has asked its client, which then hung up. */
async function ask({ fetch }: NodeInstance): Promise<Asked> {
  const session = (await openSession(fetch)) as SessionId
  for (const note of NOTES) await callTool(fetch, session, 'add_note', { note })
  const response = await send(fetch, session, toolCall('clear_notes'))
  for await (const { id: event, data } of readEvents(response)) {
    if (data === '') continue
    const { id: question, method, params } = JSON.parse(data)
    expect(method).toBe('elicitation/create')
    return {
      session,
      stream: event.split('.')[0] as StreamId,
      question,
      event,
      message: params.message,
    }
  }
  throw new Error('No question')
}

async function answer(
  { fetch }: { fetch: Fetch },
  { session, question: id }: Asked,
  result: object,
): Promise<void> {
  const response = await send(fetch, session, { jsonrpc: '2.0', id, result })
  expect(response.status).toBe(202)
}

/** What is on the call's stream behind its question: the reply, and nothing else. */
async function replyAt({ fetch }: NodeInstance, { session, event }: Asked): Promise<RpcReply> {
  const events = await collect(resuming(fetch, get(session, event)))
  expect(events).toHaveLength(1)
  return JSON.parse(events[0]?.data ?? '') as RpcReply
}

/** The notes are gone, by one change, and the call says so. */
async function expectCleared(asked: Asked, at: NodeInstance): Promise<void> {
  const { result } = await replyAt(at, asked)
  expect(result?.structuredContent).toMatchObject({ confirmed: true, notes_deleted: 2 })
  const { version, state } = (await store.load(asked.session))?.record ?? {}
  expect({ version, state }).toEqual({ version: NOTES.length + 1, state: { notes: [] } })
}

async function notesOf(asked: Asked | undefined): Promise<readonly string[] | undefined> {
  const { state } = (asked && (await store.load(asked.session))?.record) ?? {}
  return state?.['notes'] as readonly string[] | undefined
}

async function log({ session, stream }: Asked): Promise<readonly Entry[]> {
  return (await store.entries(session, stream, 0))?.entries ?? []
}

async function kinds(asked: Asked): Promise<string[]> {
  return (await log(asked)).map(({ kind }) => kind)
}

function isNotTaken(its: readonly string[]): boolean {
  return !its.includes('taken')
}

async function instances(count = 2): Promise<[NodeInstance, NodeInstance, NodeInstance]> {
  const all = await Promise.all(
    Array.from({ length: count }, (_, at) =>
      startNode({
        REDIS_URL: server.url,
        INSTANCE_ID: `instance-${at + 1}`,
        SESSION_SECRET: 'the same for all of them',
      }),
    ),
  )
  onTestFinished(async () => void (await Promise.all(all.map((one) => one.kill('SIGKILL')))))
  return all as [NodeInstance, NodeInstance, NodeInstance]
}
