import * as z from 'zod'
import { ServerError } from '../../mcp/errors.ts'
import type { Call } from '../../mcp/session/call.ts'
import type { Principal, SessionId } from '../../mcp/session/ids.ts'
import { slot, type JsonObject } from '../../mcp/session/state.ts'
import type { SessionStore } from '../../mcp/session/store.ts'
import { defineTool } from '../../mcp/session/tool.ts'
import {
  createLocalApp,
  createLocalStore,
  type LocalApp,
  type LocalAppOptions,
} from './local-app.ts'
import { readEvents, type Fetch, type RpcReply } from './mcp.ts'
import { askTool, openHandle, replyTo, type Ask } from './stateless.ts'

export const n = slot('n', z.int().default(0))
export const addOne = (state: JsonObject): JsonObject => n.set(state, n.get(state) + 1)
export const add = async (call: Call) => ({ n: n.get(await call.update(addOne)) })

type Run = (call: Call, input: { readonly by: number }) => Promise<JsonObject>

/** A session, reached by its handle, and two instances of a fleet that have a tool `run`. */
export interface Rounds {
  readonly a: LocalApp
  readonly b: LocalApp
  readonly session: string
  /** Starts another instance. */
  readonly start: (instance: string, options?: LocalAppOptions) => LocalApp
  /** `n` of the session, and how many commits have changed its state. */
  readonly state: () => Promise<{ n: number; version: number }>
}

export async function createRounds(run: Run, options: LocalAppOptions = {}): Promise<Rounds> {
  const store = options.store ?? createLocalStore(options)
  const start: Rounds['start'] = (instance, more = {}) =>
    createLocalApp({ store, pack: packOf(run), authenticate, ...options, ...more, instance })
  const a = start('a')
  const session = await openHandle(a.fetch)
  return {
    a,
    b: start('b'),
    session,
    start,
    async state() {
      const record = (await store.load(session as SessionId))?.record
      return { n: n.get(record?.state ?? {}), version: record?.version ?? 0 }
    },
  }
}

function packOf(run: Run) {
  const none = z.strictObject({})
  const some = z.strictObject({ by: z.int().default(1) })
  const adds = defineTool({
    name: 'add',
    description: 'Adds one',
    input: none,
    run: add,
  })
  const tested = defineTool({ name: 'run', description: 'Is under test', input: some, run })
  const other = defineTool({ name: 'other', description: 'Does as run', input: some, run })
  const free = { name: 'free', description: 'Needs no session', input: some, stateless: true, run }
  return { name: 'test', version: '0', tools: [adds, tested, other, defineTool(free)] }
}

/** Whoever a request says it is from. */
const authenticate = ({ headers }: Request): Promise<Principal> =>
  Promise.resolve((headers.get('x-principal') ?? 'alice') as Principal)

/** Where a tool waits until it is let go on. */
export interface Gate {
  /** Resolves when it waits. */
  readonly reached: Promise<void>
  readonly pass: () => Promise<void>
  readonly open: () => void
}

export function createGate(): Gate {
  const [reached, opened] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()]
  return {
    reached: reached.promise,
    pass() {
      reached.resolve()
      return opened.promise
    },
    open: () => opened.resolve(),
  }
}

/** A store that can be told to be away at the next call of a method. */
export function createFlaky(store: SessionStore) {
  const away = new Set<string>()
  async function pass<T>(method: string, act: () => Promise<T>): Promise<T> {
    if (away.delete(method)) throw new ServerError('store_unavailable', 'Cannot reach store')
    return act()
  }
  const flaky: SessionStore = {
    ...store,
    load: (id, key) => pass('load', () => store.load(id, key)),
    commit: (id, commit) => pass('commit', () => store.commit(id, commit)),
  }
  return { store: flaky, failNext: (method: 'load' | 'commit') => void away.add(method) }
}

/** What a stream says before its reply, in words, and the reply. */
export async function heard(response: Response): Promise<{ said: string[]; reply: RpcReply }> {
  const said: string[] = []
  let reply: RpcReply = {}
  for await (const { data } of readEvents(response)) {
    const message = JSON.parse(data) as RpcReply & { params?: Words }
    if (message.params === undefined) reply = message
    else said.push(message.params.data?.msg ?? message.params.message ?? '')
  }
  return { said, reply }
}

interface Words {
  readonly message?: string
  readonly data?: { readonly msg: string }
}

export const form = (message: string) => ({
  message,
  requestedSchema: {
    type: 'object' as const,
    properties: { count: { type: 'integer' as const } },
    required: ['count'],
  },
})
/** Those of a client that can be asked for anything. */
export const CAPABILITIES = { elicitation: {}, sampling: {} }
export const accept = (count: unknown) => ({ action: 'accept', content: { count } })

/** Asks for a number. */
export async function howMany(call: Call, message = 'How many?') {
  const { action, content } = await call.elicit(form(message))
  return { action, count: Number(content?.['count'] ?? 0) }
}

/** Adds as many as its user says. */
export async function addMany(call: Call): Promise<JsonObject> {
  const { count } = await howMany(call)
  const after = await call.update((before) => n.set(before, n.get(before) + count))
  return { n: n.get(after) }
}

export interface Asked {
  readonly questions: Readonly<Record<string, { method: string; params: { message?: string } }>>
  readonly requestState: string
}

/** What a round asks its client. */
export async function question(fetch: Fetch, session: string, more: Ask = {}): Promise<Asked> {
  const request = askTool('run', { session }, { capabilities: CAPABILITIES, ...more })
  const { result, ...rest } = await replyTo(await fetch(request))
  if (result?.['resultType'] !== 'input_required') throw new Error(JSON.stringify(result ?? rest))
  const { inputRequests, requestState } = result as unknown as Record<string, unknown>
  return { questions: inputRequests as Asked['questions'], requestState: String(requestState) }
}

export const answering = (requestState: string, inputResponses: object): Ask => ({
  params: { requestState, inputResponses },
  capabilities: CAPABILITIES,
})

/** Answers all that was asked with the same. */
export function withAnswer({ questions, requestState }: Asked, answer: object): Ask {
  const answers = Object.keys(questions).map((key) => [key, answer] as const)
  return answering(requestState, Object.fromEntries(answers))
}
