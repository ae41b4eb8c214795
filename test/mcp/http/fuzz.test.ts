import { AsyncLocalStorage } from 'node:async_hooks'
import { isDeepStrictEqual } from 'node:util'
import * as fc from 'fast-check'
import { expect, it } from 'vitest'
import { anonymous, bearer, type Authenticate } from '../../../mcp/http/auth.ts'
import { systemClock, type Clock } from '../../../mcp/session/clock.ts'
import type { SessionId } from '../../../mcp/session/ids.ts'
import type { Commit, SessionStore } from '../../../mcp/session/store.ts'
import { faultsIn, isFailure, type Answered } from '../../hostile/fuzz-answers.ts'
import { knownOf } from '../../hostile/fuzz-known.ts'
import { fuzzCase, requestOf, type FuzzRequest, type Known } from '../../hostile/fuzz.ts'
import { ask } from '../../support/stateless.ts'
import { createLocalApp, createLocalStore } from '../../support/local-app.ts'
import { BASE, callTool, isStream, openSession, post, type Fetch } from '../../support/mcp.ts'

// One that fails is told with its seed, and told again by `FUZZ_SEED=<seed>`.
const CASES = Number(process.env['FUZZ_CASES'] ?? 10_000)
const SEED = Number(process.env['FUZZ_SEED'] ?? 20_261_121)
const HANGS_MS = 10_000
// What clients get who do some things wrong. Were one never seen, too much would be refused too early.
const LONG = 'x'.repeat(1_000_001)
const SEEN = [200, 202, 400, 403, 404, 405, 406, 415]

it(
  `serves or refuses each of ${CASES} requests that are not in order, and does no more`,
  { timeout: 300_000 },
  async () => {
    const scene = await setScene(anonymous)
    const statuses = await fuzz(scene, CASES)
    expect(SEEN.filter((status) => CASES >= 1000 && statuses[status] === undefined)).toEqual([])
  },
)

const NO_TEXT = { toString: 1 }
// Such as were answered with an internal error once.
const FOUND: readonly [what: string, request: (own: string) => Request][] = [
  [
    'the URI to subscribe to can be no text',
    (own) => inSession(own, { method: 'resources/subscribe', params: { uri: NO_TEXT } }),
  ],
  [
    "a tool's name can be no text",
    () => ask('tools/call', { name: NO_TEXT }, { headers: { 'mcp-name': 'x' } }),
  ],
  [
    'a URI to hear of is longer than any',
    () => ask('subscriptions/listen', { notifications: { resourceSubscriptions: [LONG] } }),
  ],
]

it.each(FOUND)('refuses a request where %s', async (_what, request) => {
  const scene = await setScene(anonymous)
  const asked = request(scene.known.own)
  const { method } = asked
  const body = new Uint8Array(await asked.arrayBuffer())
  const answer = await play(scene, { method, headers: Object.fromEntries(asked.headers), body })
  expect(answer.faults).toEqual([])
})

it('refuses all of them alike from callers who do not say who they are', async () => {
  const tokens = [{ name: 'a', hash: new Uint8Array(32), scopes: [] }]
  const nobody = bearer({ tokens, requiredScope: undefined, adminScope: 'admin' }, systemClock)
  const scene = await setScene((request) =>
    request.headers.has('x-known') ? anonymous(request) : nobody(request),
  )
  const statuses = await fuzz(scene, CASES / 10)
  expect(Object.keys(statuses)).toEqual(['401', '403'])
})

async function fuzz(scene: Scene, cases: number): Promise<Record<number, number>> {
  const statuses: Record<number, number> = {}
  const before = await scene.canaryNow()
  const began = performance.now()
  await fc.assert(
    fc.asyncProperty(fuzzCase, async (one) => {
      const { status, faults } = await play(scene, await requestOf(one, scene.known))
      statuses[status] = (statuses[status] ?? 0) + 1
      expect(faults).toEqual([])
    }),
    { numRuns: cases, seed: SEED },
  )
  const perSecond = Math.round((1000 * cases) / (performance.now() - began))
  console.log(`${cases} requests of seed ${SEED}, ${perSecond} a second:`, statuses)
  expect(scene.effects.flatMap(lateFaults)).toEqual([])
  expect(await scene.canaryNow()).toEqual(before)
  return statuses
}

function inSession(id: string, message: object): Request {
  return post(JSON.stringify({ jsonrpc: '2.0', id: 1, ...message }), { 'mcp-session-id': id })
}

/** What one request has come to, however late. */
interface Effect {
  readonly request: FuzzRequest
  readonly commits: Committed[]
  /** Unset: it may change what it names. */
  mustNot?: 'commit' | 'change'
}

interface Committed {
  readonly id: SessionId
  readonly commit: Commit
  readonly isChange: boolean
}

const current = new AsyncLocalStorage<Effect>()

interface Scene {
  readonly fetch: Fetch
  readonly effects: Effect[]
  readonly canaryNow: () => Promise<object>
  known: Known
  readonly renew: () => Promise<void>
}

async function setScene(authenticate: Authenticate): Promise<Scene> {
  const store = createLocalStore({})
  const app = createLocalApp({ store: watched(store), clock: hurried, authenticate })
  const asKnown: Fetch = (request) => {
    const known = new Request(request)
    known.headers.set('x-known', '1')
    return app.fetch(known)
  }
  const canary = await openSession(asKnown)
  await callTool(asKnown, canary, 'add_note', { note: 'of the canary' })
  const scene: Scene = {
    fetch: app.fetch,
    effects: [],
    known: await knownOf(asKnown),
    async renew() {
      scene.known = await knownOf(asKnown)
    },
    async canaryNow() {
      const { state, version, settings } = (await store.load(canary as SessionId))?.record ?? {}
      return { state, version, settings }
    },
  }
  return scene
}

/** Puts each commit on the record of the request that it is made for. */
function watched(store: SessionStore): SessionStore {
  return {
    ...store,
    async commit(id, commit) {
      const { change } = commit
      const before = change && (await store.load(id))?.record.state
      const outcome = await store.commit(id, commit)
      if (outcome.kind === 'committed') {
        const isChange = change !== undefined && !isDeepStrictEqual(change.state, before)
        current.getStore()?.commits.push({ id, commit, isChange })
      }
      return outcome
    },
  }
}

/** A thousand times as fast: nothing here is about time. */
const hurried: Clock = {
  now: () => Date.now(),
  timer: (ms, fire) => systemClock.timer(ms / 1000, fire),
}

async function play(
  scene: Scene,
  request: FuzzRequest,
): Promise<{ status: number; faults: string[] }> {
  const effect: Effect = { request, commits: [] }
  // A new session now and then: one with very many notes is slow.
  if (scene.effects.push(effect) % 1000 === 0) await scene.renew()
  const answer = await current.run(effect, () => answerTo(scene.fetch, request))
  if (answer === undefined) return { status: 0, faults: ['hangs'] }
  const isRefused = answer.status < 200 || answer.status >= 300
  if (isRefused) effect.mustNot = 'commit'
  else if (isFailure(answer)) effect.mustNot = 'change'
  const faults = [...faultsIn(answer, request.method), ...lateFaults(effect)]
  if (request.method === 'DELETE' && !isRefused) await scene.renew()
  return { status: answer.status, faults }
}

function lateFaults({ request, commits, mustNot }: Effect): string[] {
  const text = new TextDecoder().decode(request.body) + Object.values(request.headers).join(' ')
  return commits.flatMap(({ id, commit, isChange }) => {
    if (mustNot === 'commit') return [`was refused, and has come to ${JSON.stringify(commit)}`]
    if (mustNot === 'change' && isChange) return ['has failed, and has changed the state']
    const isNamed = commit.begin !== undefined || text.includes(id)
    return isNamed || isBegun(commits, id) ? [] : ['changes a session that it does not name']
  })
}

function isBegun(commits: Effect['commits'], of: SessionId): boolean {
  return commits.some(({ id, commit }) => id === of && commit.begin !== undefined)
}

/** `undefined` if there is none in time. Of a stream only its first words are heard. */
async function answerTo(
  fetch: Fetch,
  { method, headers, body }: FuzzRequest,
): Promise<Answered | undefined> {
  const init = { method, headers, ...(body && { body }) }
  const late = Promise.withResolvers<undefined>()
  const stop = systemClock.timer(HANGS_MS, () => late.resolve(undefined))
  const asked = async (): Promise<Answered> => {
    const response = await fetch(new Request(`${BASE}/mcp`, init))
    const text = isStream(response) ? await firstWords(response) : await response.text()
    return { status: response.status, headers: response.headers, body: text }
  }
  return Promise.race([asked(), late.promise]).finally(stop)
}

async function firstWords({ body }: Response): Promise<string> {
  const reader = body?.getReader()
  const first = await reader?.read()
  await reader?.cancel()
  return new TextDecoder().decode(first?.value)
}
