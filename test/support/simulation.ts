import type { JSONRPCMessage } from '@modelcontextprotocol/server'
import { isServerError } from '../../mcp/errors.ts'
import {
  parseEventId,
  type Principal,
  type SessionId,
  type StreamId,
} from '../../mcp/session/ids.ts'
import type { Entry, SessionStore } from '../../mcp/session/store.ts'
import { initialize, toolCall } from './mcp.ts'
import { createPack, labelsOf, marksOf, type Told, type WorkInput } from './simulated-pack.ts'
import { World, type Instance, type WorldOptions } from './simulated-world.ts'

export interface Simulated {
  /** What the model does not allow. Empty: all is well. */
  readonly faults: readonly string[]
  /** All that went wrong or was decided on the way, with the milliseconds since the start. */
  readonly steps: readonly string[]
  /** How often what happened. */
  readonly counts: Readonly<Record<string, number>>
}

export type Broken = Pick<WorldOptions, 'breakStore' | 'breakInstance'>

const TROUBLE_MS = 6000
const QUIET_MS = 120_000
const CALLS = 7
const PRINCIPAL = 'simulated' as Principal

/** One session, some calls of it, some instances and much trouble; then none, until all is quiet. */
export async function simulate(seed: number, broken: Broken = {}): Promise<Simulated> {
  const simulation = new Simulation(seed, broken)
  return simulation.run()
}

/** What a client asks for, and what it was told. */
interface Asked {
  readonly key: string
  readonly id: number
  readonly tool: 'work' | 'add' | 'twice' | 'get'
  readonly input: WorkInput
  readonly startsIn: number
  /** When the client cancels it, if it does. */
  readonly cancelsIn: number | undefined
  /** When the client goes for good, if it does. */
  readonly leavesIn: number | undefined
  /** The question's answers, of which only the first is to count. */
  readonly answers: 0 | 1 | 2
  invoked: number
  completed: number
  /** Connections that are open. */
  waits: number
  outcome: Outcome | undefined
  /** The stream and place of the last event that was seen. */
  seen: string | undefined
  readonly questions: Set<string>
  readonly attachments: Attachment[]
}

interface Outcome {
  readonly id?: unknown
  readonly result?: {
    readonly isError?: boolean
    readonly content?: readonly { readonly text: string }[]
    readonly structuredContent?: { readonly told?: Told }
  }
  readonly error?: { readonly code: number; readonly message: string }
}

/** One connection on which a client follows a call's stream. */
interface Attachment {
  readonly stream: string
  readonly after: number
  readonly got: { readonly place: number; readonly data: string }[]
}

class Simulation {
  readonly #world: World
  readonly #faults: string[] = []
  readonly #asked: Asked[] = []
  readonly #service = new Map<string, { who: string; value: number }>()
  /** At which tick each mark was in the state. */
  readonly #marked: number[] = []
  readonly #streams = new Set<StreamId>()
  #session = '' as SessionId
  #busy = 0

  constructor(seed: number, { breakStore = (store) => store, breakInstance }: Broken) {
    this.#world = new World({
      seed,
      breakInstance,
      breakStore: (store) => breakStore(this.#watching(store)),
      packOf: (world) => createPack(world, this.#service),
    })
  }

  async run(): Promise<Simulated> {
    const world = this.#world
    world.trouble = false
    void this.#open()
    await world.run(1000, () => this.#session !== '')
    world.trouble = true
    for (let n = 0; n < CALLS; n++) this.#asked.push(this.#plan(n))
    for (const asked of this.#asked) this.#do(() => this.#client(asked))
    this.#troubles()
    await world.run(TROUBLE_MS, () => false)
    world.note('no more trouble')
    world.trouble = false
    // What was on its way, or stood still, goes on; what was orphaned is found.
    await world.run(5000, () => false)
    const settled = await this.#settle()
    if (!settled) await this.#sayWhatIsOpen()
    await this.#check()
    return { faults: this.#faults, steps: world.steps, counts: world.counts }
  }

  async #settle(): Promise<boolean> {
    const world = this.#world
    for (let n = 0; n < QUIET_MS / 1000; n++) {
      const running = await world.store.running(this.#session)
      if (running.length === 0 && this.#busy === 0) return true
      await world.run(1000, () => false)
    }
    return false
  }

  async #sayWhatIsOpen(): Promise<void> {
    const { store } = this.#world
    for (const stream of await store.running(this.#session)) {
      const log = (await store.entries(this.#session, stream, 0))?.entries ?? []
      const tail = JSON.stringify(log.slice(-3))
      this.#faults.push(`stream ${stream} of ${String(keyOf(log))} has no end: ${tail}`)
    }
    for (const asked of this.#asked.filter(({ waits }) => waits > 0)) this.#fault(asked, 'waits')
    this.#faults.push(`${this.#busy} wait`)
  }

  async #open(): Promise<void> {
    const opened = await this.#world.reach()?.router.open(postOf(initialize))
    if (opened?.kind !== 'opened') throw new Error(`No session: ${JSON.stringify(opened)}`)
    this.#session = opened.id
  }

  #plan(n: number): Asked {
    const world = this.#world
    const tool = n < 3 ? 'work' : (['add', 'twice', 'get', 'add', 'get'] as const)[world.below(5)]
    const startsIn = world.below(3000)
    const leaves = world.happens(0.12)
    return {
      key: `c${n}`,
      id: world.happens(0.5) ? n : 1,
      tool: tool ?? 'add',
      input: {
        key: `c${n}`,
        rounds: 1 + world.below(3),
        asks: world.happens(0.5),
        declines: world.happens(0.3),
        naps: [0, 20, 600][world.below(3)] ?? 0,
      },
      startsIn,
      cancelsIn: world.happens(0.15) ? startsIn + world.below(2500) : undefined,
      leavesIn: leaves ? startsIn + world.below(2000) : undefined,
      answers: ([0, 1, 1, 2, 2] as const)[world.below(5)] ?? 1,
      invoked: 0,
      completed: 0,
      waits: 0,
      outcome: undefined,
      seen: undefined,
      questions: new Set(),
      attachments: [],
    }
  }

  #troubles(): void {
    const world = this.#world
    for (let n = world.below(3); n > 0; n--) {
      world.later(world.below(TROUBLE_MS), undefined, () => {
        const instance = world.reach()
        if (instance === undefined) return
        const kind = world.below(3)
        if (kind === 0) world.crash(instance)
        else if (kind === 1) world.pause(instance, 200 + world.below(3000))
        else world.drain(instance)
      })
    }
  }

  /** Counts `act` as something that is still to end. */
  #do(act: () => Promise<void>): void {
    this.#busy++
    void act()
      .catch((error: unknown) => this.#faults.push(`the simulator failed: ${String(error)}`))
      .finally(() => this.#busy--)
  }

  async #client(asked: Asked): Promise<void> {
    const world = this.#world
    const { startsIn, cancelsIn, leavesIn = Infinity, key, tool } = asked
    const leavesAt = world.now + leavesIn
    if (cancelsIn !== undefined) this.#do(() => this.#cancel(asked, cancelsIn))
    await world.sleep(startsIn)
    world.note(`${key} calls ${tool}`)
    asked.invoked = world.tick
    while (asked.outcome === undefined) {
      if (world.now >= leavesAt) return world.note(`${key} leaves`)
      // One that was sent twice, or that the client believes to be lost, runs along with the next.
      const tries = world.trouble && world.happens(0.1) ? 2 : 1
      await Promise.all(Array.from({ length: tries }, () => this.#try(asked)))
      await world.sleep(1 + world.below(200))
    }
  }

  /** Sends the call, or looks for the rest of its stream. */
  async #try(asked: Asked): Promise<void> {
    const { seen } = asked
    const resumes = seen !== undefined && this.#world.happens(0.8)
    asked.waits++
    try {
      await this.#connect((instance, connection) =>
        resumes
          ? this.#follow(asked, instance, connection, seen)
          : this.#post(asked, instance, connection),
      )
    } catch (error) {
      // An app answers the second with 503.
      if (!(error instanceof Cut) && !isAway(error)) throw error
    } finally {
      asked.waits--
    }
  }

  async #post(asked: Asked, instance: Instance, connection: Connection): Promise<void> {
    const { tool, input, id, key } = asked
    const args = { work: input, add: { key }, twice: { key }, get: {} }[tool]
    const call = toolCall(tool, args, id) as { params: object }
    const params = { ...call.params, _meta: { progressToken: key } }
    const post = { ...postOf({ ...call, params }), idempotencyKey: key }
    const answer = await instance.router.deliver(this.#session, post)
    switch (answer.kind) {
      case 'reply':
        await connection.back()
        return this.#replied(asked, answer.body)
      case 'stream':
        return this.#follow(asked, instance, connection, answer.after)
      case 'refused':
        if (answer.status !== 503) this.#fault(asked, `was refused: ${answer.body}`)
        return connection.back()
      case 'gone':
      case 'accepted':
        this.#fault(asked, `was answered: ${answer.kind}`)
    }
  }

  async #follow(
    asked: Asked,
    instance: Instance,
    connection: Connection,
    lastEventId: string,
  ): Promise<void> {
    const stop = new AbortController()
    const request = { lastEventId, signal: stop.signal }
    const following = await instance.router.follow(this.#session, PRINCIPAL, request)
    if (following.kind !== 'following') {
      const refused = following.kind === 'refused' && following.status === 503
      if (!refused) this.#fault(asked, `can't follow: ${JSON.stringify(following)}`)
      return connection.back()
    }
    const place = parseEventId(following.after)
    if (place === undefined) throw new Error(`No event id: ${following.after}`)
    const attachment: Attachment = { ...place, got: [] }
    asked.attachments.push(attachment)
    // Whether the server learns that a connection is cut.
    if (this.#world.happens(0.7)) connection.onCut(() => stop.abort())
    for await (const event of following.events) {
      if (connection.isCut || event.kind === 'superseded') break
      attachment.got.push({ place: parseEventId(event.id)?.after ?? 0, data: event.data })
      asked.seen = event.id
      this.#heard(asked, event.data)
    }
  }

  #heard(asked: Asked, data: string): void {
    const message = JSON.parse(data) as JSONRPCMessage
    if (!('method' in message)) return this.#replied(asked, data)
    if (!('id' in message) || asked.questions.has(String(message.id))) return
    asked.questions.add(String(message.id))
    if (asked.answers > 0) this.#do(() => this.#answer(asked, message.id))
  }

  #replied(asked: Asked, body: string): void {
    const outcome = JSON.parse(body) as Outcome
    const before = asked.outcome
    if (outcome.id !== asked.id) this.#fault(asked, `has the reply of ${String(outcome.id)}`)
    // A read may be answered twice, from two states; and so may a call that was cancelled.
    if (before !== undefined && asked.tool !== 'get' && asked.cancelsIn === undefined) {
      if (JSON.stringify(before) !== body) this.#fault(asked, 'has two outcomes')
    }
    if (before !== undefined) return
    asked.outcome = outcome
    asked.completed = this.#world.tick
  }

  async #answer({ key, answers }: Asked, id: string | number): Promise<void> {
    const world = this.#world
    for (let n = 1; n <= answers; n++) {
      await world.sleep(world.below(n === 1 ? 400 : 3000))
      world.note(`${key} answers`)
      const result = { action: 'accept', content: { n } }
      await this.#tell({ jsonrpc: '2.0', id, result })
    }
  }

  async #cancel({ key, id }: Asked, cancelsIn: number): Promise<void> {
    await this.#world.sleep(cancelsIn)
    this.#world.note(`${key} cancels`)
    const params = { requestId: id }
    await this.#tell({ jsonrpc: '2.0', method: 'notifications/cancelled', params })
  }

  /** Sends what has no reply until it was taken. */
  async #tell(message: object): Promise<void> {
    while (!(await this.#isTaken(message))) await this.#world.sleep(this.#world.below(100))
  }

  async #isTaken(message: object): Promise<boolean> {
    try {
      return await this.#connect(async (instance, connection) => {
        const answer = await instance.router.deliver(this.#session, postOf(message))
        await connection.back()
        const isRefused = answer.kind === 'refused' && answer.status === 503
        if (answer.kind === 'accepted' || isRefused) return !isRefused
        this.#faults.push(`a message was answered: ${JSON.stringify(answer)}`)
        return true
      })
    } catch (error) {
      if (error instanceof Cut || isAway(error)) return false
      throw error
    }
  }

  /** A connection to whichever instance: it may be cut at any time, and is if the instance dies. */
  #connect<T>(use: (instance: Instance, connection: Connection) => Promise<T>): Promise<T> {
    const world = this.#world
    const { promise, resolve, reject } = Promise.withResolvers<T>()
    world.later(world.latency(), undefined, () => {
      const instance = world.reach()
      if (instance === undefined) return reject(new Cut())
      const connection = new Connection(world)
      const cut = (): void => {
        connection.cut()
        reject(new Cut())
      }
      const over = (): void => void instance.connections.delete(cut)
      instance.connections.add(cut)
      if (world.trouble && world.happens(0.25)) world.later(world.below(1500), undefined, cut)
      world.later(0, instance, () => {
        void use(instance, connection).then(resolve, reject).finally(over)
      })
    })
    return promise
  }

  #fault({ key, tool }: Asked, what: string): void {
    this.#faults.push(`${key} ${tool} ${what}`)
  }

  /** Sees which streams there are, and when a mark is made. */
  #watching(store: SessionStore): SessionStore {
    return {
      ...store,
      commit: async (id, commit) => {
        const outcome = await store.commit(id, commit)
        if (outcome.kind !== 'committed') return outcome
        for (const { stream, entries } of commit.append ?? []) {
          if (entries[0]?.kind === 'begin') this.#streams.add(stream)
        }
        const marks = commit.change === undefined ? [] : marksOf(commit.change.state)
        while (this.#marked.length < marks.length) this.#marked.push(this.#world.tick)
        return outcome
      },
    }
  }

  async #check(): Promise<void> {
    const { store } = this.#world
    const loaded = await store.load(this.#session)
    const marks = marksOf(loaded?.record.state ?? {})
    if (new Set(marks).size < marks.length) this.#faults.push(`done twice: ${marks.join(' ')}`)
    const logs = new Map<string, readonly Entry[]>()
    for (const stream of this.#streams) {
      const log = (await store.entries(this.#session, stream, 0))?.entries ?? []
      this.#checkLog(stream, log)
      logs.set(stream, log)
    }
    for (const asked of this.#asked) {
      const own = [...logs].filter(([, log]) => keyOf(log) === asked.key)
      if (own.length > 1) this.#fault(asked, 'has two streams')
      this.#checkEffects(asked, own[0]?.[1], marks)
      this.#checkStreams(asked, logs)
      this.#checkTold(asked, own[0]?.[1], marks)
    }
    this.#checkOrder(marks)
  }

  #checkLog(stream: string, log: readonly Entry[]): void {
    const ends = log.filter(({ kind }) => kind === 'end').length
    if (ends !== 1 || log.at(-1)?.kind !== 'end') {
      this.#faults.push(`stream ${stream} has ${ends} ends, and ${log.at(-1)?.kind} at its end`)
    }
    const ops = log.flatMap((entry) => {
      return entry.kind === 'did' || entry.kind === 'message' ? [entry.op] : []
    })
    if (new Set(ops).size < ops.length) this.#faults.push(`stream ${stream}: an operation twice`)
    const answered = log.flatMap((entry) => (entry.kind === 'answer' ? [entry.op] : []))
    if (new Set(answered).size < answered.length) this.#faults.push(`stream ${stream}: two answers`)
  }

  /** All of it if it came to an end, a first part if it was stopped, and nothing twice. */
  #checkEffects(asked: Asked, log: readonly Entry[] | undefined, marks: readonly string[]): void {
    const { key, tool, outcome } = asked
    const all = expectedMarks(asked)
    const made = marks.filter((mark) => mark.startsWith(`${key}/`))
    const ended = endOf(log) ?? outcome
    if (made.join() !== all.slice(0, made.length).join()) this.#fault(asked, `made ${made.join()}`)
    if (ended?.result?.isError === true) {
      return this.#fault(asked, `threw: ${ended.result.content?.[0]?.text}`)
    }
    if (ended?.result !== undefined && made.length < all.length) {
      this.#fault(asked, `replied, and made only ${made.join()}`)
    }
    if (log === undefined && made.length % all.length > 0) this.#fault(asked, 'is half done')
    // Those that share its id are cancelled in its place, if it does not run.
    const isCancelled = this.#asked.some(
      ({ id, cancelsIn }) => id === asked.id && cancelsIn !== undefined,
    )
    if (ended?.error !== undefined && !isStopped(isCancelled, ended, log)) {
      this.#fault(asked, `failed: ${ended.error.message}`)
    }
    if (tool !== 'work') return
    const paid = [...this.#service.values()].filter(({ who }) => who.startsWith(`${key}/`))
    if (new Set(paid.map(({ who }) => who)).size < paid.length) this.#fault(asked, 'paid twice')
    if (ended?.result !== undefined && paid.length < asked.input.rounds) {
      this.#fault(asked, 'did not pay')
    }
  }

  /** What came on each connection is what the stream has behind the place that was asked for. */
  #checkStreams(asked: Asked, logs: ReadonlyMap<string, readonly Entry[]>): void {
    for (const { stream, after, got } of asked.attachments) {
      const events = (logs.get(stream) ?? []).flatMap((entry, at) => {
        const { kind } = entry
        const data = kind === 'message' || kind === 'end' ? JSON.stringify(entry.message) : ''
        return data !== '' && at >= after ? [{ place: at + 1, data }] : []
      })
      const same = JSON.stringify(got) === JSON.stringify(events.slice(0, got.length))
      if (!same) this.#fault(asked, `was sent on ${stream} after ${after}: ${placesOf(got)}`)
    }
  }

  /** Each message says all that its run was told so far: a later run was told the same. */
  #checkTold(asked: Asked, log: readonly Entry[] | undefined, marks: readonly string[]): void {
    const ended = endOf(log) ?? asked.outcome
    const told = ended?.result?.structuredContent?.told
    const said = (log ?? []).flatMap((entry) => (entry.kind === 'message' ? [saidIn(entry)] : []))
    const labels = said.map(({ label }) => label)
    const expected = asked.tool === 'work' ? labelsOf(asked.input) : []
    if (labels.join() !== expected.slice(0, labels.length).join()) {
      this.#fault(asked, `said ${labels.join()}`)
    }
    let longest = told ?? said.at(-1)?.told ?? []
    for (const one of said) {
      if (!isPrefix(one.told, longest)) this.#fault(asked, `was told another thing: ${one.label}`)
    }
    if (told === undefined) return
    if (labels.length < expected.length) this.#fault(asked, `said only ${labels.join()}`)
    this.#checkAnswers(asked, log ?? [], told)
    let now = 0
    for (const [what, value] of told) {
      if (what.startsWith('now ')) {
        if (Number(value) < now) this.#fault(asked, `has its clock go back at ${what}`)
        now = Math.max(now, Number(value)) + (what.startsWith('now before') ? asked.input.naps : 0)
      }
      const [, mark] = /^update (.*)/.exec(what) ?? []
      if (mark !== undefined && marks.indexOf(mark) + 1 !== value) {
        this.#fault(asked, `was told ${JSON.stringify(value)} for mark ${marks.indexOf(mark) + 1}`)
      }
    }
  }

  #checkAnswers(asked: Asked, log: readonly Entry[], told: Told): void {
    const heard = told.filter(([what]) => what.startsWith('answer')).map(([, value]) => value)
    const given = log.flatMap((entry) => {
      if (entry.kind !== 'answer') return []
      const { outcome } = entry
      const { content } = 'result' in outcome ? outcome.result : { content: { n: 0 } }
      return [(content as { n: number }).n]
    })
    if (JSON.stringify(heard) !== JSON.stringify(given)) {
      this.#fault(asked, `was told ${JSON.stringify(heard)} for answers ${given.join()}`)
    }
    // The second is sent when the first was taken: by then there was an answer.
    if (given.includes(2)) this.#fault(asked, 'took the second answer')
  }

  /** Linearizable: the marks are in one order, and no reply speaks against it. */
  #checkOrder(marks: readonly string[]): void {
    const asked = this.#asked.filter(({ outcome }) => outcome?.result !== undefined)
    const replied = asked.map((one) => {
      const places = expectedMarks(one).map((mark) => marks.indexOf(mark) + 1)
      return { ...one, places }
    })
    for (const one of replied) {
      const past = replied.filter(({ completed }) => completed < one.invoked)
      const least = Math.max(0, ...past.flatMap(({ places }) => places))
      const most = this.#marked.filter((at) => at <= one.completed).length
      const values = (one.outcome?.result?.structuredContent?.told ?? []).flatMap(([what, value]) =>
        /^(read|update)/.test(what) ? [Number(value)] : [],
      )
      const rises = values.every((value, at) => value >= (values[at - 1] ?? least))
      if (!rises || values.some((value) => value > most)) {
        this.#fault(one, `was told ${values.join()} of ${least} to ${most}`)
      }
    }
  }
}

/** A client's end of a connection. */
class Connection {
  isCut = false
  readonly #world: World
  readonly #acts: (() => void)[] = []

  constructor(world: World) {
    this.#world = world
  }

  onCut(act: () => void): void {
    if (this.isCut) act()
    else this.#acts.push(act)
  }

  cut(): void {
    this.isCut = true
    for (const act of this.#acts) act()
  }

  /** The way of a whole answer, which is lost if the connection is. */
  async back(): Promise<void> {
    await this.#world.sleep(this.#world.latency())
    if (this.isCut) throw new Cut()
  }
}

class Cut extends Error {}

function isAway(error: unknown): boolean {
  return isServerError(error) && error.code === 'store_unavailable'
}

function postOf(message: object): { principal: Principal; body: string } {
  return { principal: PRINCIPAL, body: JSON.stringify(message) }
}

function expectedMarks({ tool, key, input }: Asked): string[] {
  const count = { work: input.rounds, add: 1, twice: 2, get: 0 }[tool]
  return Array.from({ length: count }, (_, n) => `${key}/${n}`)
}

function keyOf([first]: readonly Entry[]): unknown {
  if (first?.kind !== 'begin') return undefined
  return first.request.params?._meta?.progressToken
}

function endOf(log: readonly Entry[] | undefined): Outcome | undefined {
  const end = log?.at(-1)
  return end?.kind === 'end' ? (end.message as Outcome) : undefined
}

/** True if its client wanted the call to end, or if it is one that too many died of. */
function isStopped(isCancelled: boolean, { error }: Outcome, log: readonly Entry[] = []): boolean {
  if (error?.code === -32800) return isCancelled
  return log.length > 11 && log.slice(-11, -1).every(({ kind }) => kind === 'taken')
}

function saidIn({ message }: Entry & { kind: 'message' }): { label: string; told: Told } {
  const params = 'params' in message ? message.params : {}
  const { message: text, data } = params as { message?: string; data?: { msg: string } }
  return JSON.parse(text ?? data?.msg ?? '') as { label: string; told: Told }
}

function isPrefix(part: Told, whole: Told): boolean {
  return JSON.stringify(part) === JSON.stringify(whole.slice(0, part.length))
}

function placesOf(got: Attachment['got']): string {
  return got.map(({ place }) => place).join(' ')
}
