import type {
  JSONRPCNotification,
  LoggingLevel,
  McpServer,
  ServerContext,
} from '@modelcontextprotocol/server'
import type { Limits } from '../limits.ts'
import type { Log } from '../log.ts'
import type { Call, CallOptions } from './call.ts'
import type { Exchange } from './exchange.ts'
import { createExchangeCall } from './exchange-call.ts'
import type { Exchanges } from './exchanges.ts'
import type { SessionId, StreamId } from './ids.ts'
import type { LiveSession } from './live-session.ts'
import { findOwnCall, outcomeOfCall, resultOf } from './own-tools.ts'
import { REVISIONS } from './revisions.ts'
import { createServer, type ServerHost } from './server.ts'
import { settingsChange } from './settings.ts'
import type { JsonObject } from './state.ts'
import type { RpcOutcome } from './store.ts'
import { isForeign, type Pack } from './tool.ts'
import { SessionTransport } from './transport.ts'

export interface RunsOptions {
  readonly id: SessionId
  readonly pack: Pack
  readonly instance: string
  readonly limits: Pick<Limits, 'maxSubscriptions'>
  readonly log: Log
  readonly session: LiveSession
  readonly exchanges: Exchanges
  readonly callOptions: () => Omit<CallOptions, 'asks' | 'logLevel' | 'progressToken'>
  /** Lets go of who follows `stream`; they come back for the rest. */
  readonly detach: (stream: StreamId) => void
}

/**
 * Runs a session's requests, each under a number of its own: calls of the pack's own tools by itself, and
 * all others, with all that is to be refused, in a server of the SDK's.
 */
export class Runs {
  readonly #options: RunsOptions
  readonly #transport: SessionTransport
  #server: Promise<McpServer> | undefined

  constructor(options: RunsOptions) {
    const { id, log } = options
    this.#options = options
    this.#transport = new SessionTransport(id, {
      replied: (run, outcome) => this.#replied(run, outcome),
      said: (message, run) => this.#said(message, run),
      asked: async (question, run, op) => this.#exchange(run).operations.ask(question, op),
      failed: ({ message }) => log({ event: 'sdk_error', session: id, message }),
    })
  }

  /** Has the SDK begin the session. */
  async begin(initialize: JsonObject): Promise<RpcOutcome> {
    const server = await this.#connect()
    this.#server = Promise.resolve(server)
    return this.#transport.ask('initialize', initialize)
  }

  async tell(notification: JSONRPCNotification): Promise<void> {
    await this.#connected()
    this.#transport.receiveNotification(notification)
  }

  run(exchange: Exchange): void {
    const run = this.#transport.nextRun()
    this.#options.exchanges.add(exchange, run)
    this.#answer(exchange, run).catch((error: unknown) => exchange.failRun(run, error))
  }

  /** Tells a run that nobody waits for it any more. */
  stop({ run, operations }: Exchange): void {
    operations.stop()
    this.#transport.cancel(run)
  }

  close(): Promise<void> {
    return this.#transport.close()
  }

  async #answer(exchange: Exchange, run: number): Promise<void> {
    const { request } = exchange
    const { pack, detach } = this.#options
    const own = await findOwnCall(request, pack.tools)
    if (own === undefined) await this.#prepare(exchange, run)
    // It may have been cancelled in the meantime.
    exchange.mustGoOn(run)
    if (own === undefined) {
      const closeSSEStream = (): void => void exchange.openStream().then(detach, () => undefined)
      return this.#transport.receiveRequest(run, request, { closeSSEStream })
    }
    const { tool, input } = own
    const result = async () => resultOf(await tool.run(this.#callOf(exchange), input))
    await this.#replied(run, await outcomeOfCall(result))
  }

  async #prepare(exchange: Exchange, run: number): Promise<void> {
    // What a tool of somebody else's does nobody knows, so the call is on record before it does it.
    if (isForeign(exchange.request, this.#options.pack)) await exchange.openStream(run)
    await this.#connected()
  }

  async #replied(run: number, outcome: RpcOutcome): Promise<void> {
    const { exchanges, limits } = this.#options
    const exchange = exchanges.get(run)
    await exchange?.finish(outcome, settingsChange(exchange.request, outcome, limits))
  }

  async #said(message: JSONRPCNotification, run: number | undefined): Promise<void> {
    const { exchanges, session } = this.#options
    await (run === undefined ? session.say(message) : exchanges.get(run)?.operations.say(message))
  }

  /** The session's SDK server. One that was restored has none until it is needed: most calls go past it. */
  #connected(): Promise<McpServer> {
    this.#server ??= this.#restore().catch((error: unknown) => {
      this.#server = undefined
      throw error
    })
    return this.#server
  }

  /** It is told again what it was told when the session began. No client hears what it says to that. */
  async #restore(): Promise<McpServer> {
    const { initialize, settings } = this.#options.session.record
    const { logLevel: level } = settings
    const server = await this.#connect()
    await this.#transport.ask('initialize', initialize)
    if (level !== undefined) await this.#transport.ask('logging/setLevel', { level })
    return server
  }

  async #connect(): Promise<McpServer> {
    const { pack, instance } = this.#options
    const callOf = ({ mcpReq }: ServerContext): Call =>
      this.#callOf(this.#exchange(Number(mcpReq.id)))
    const host: ServerHost = {
      instance,
      run: async (tool, input, ctx) => resultOf(await tool.run(callOf(ctx), input)),
      stateOf: async (session, ctx) => callOf(ctx).stateOf(session),
    }
    const server = createServer(pack, host, { revisions: REVISIONS })
    await server.connect(this.#transport)
    return server
  }

  #callOf(exchange: Exchange): Call {
    const { callOptions, session } = this.#options
    return createExchangeCall(exchange, () => this.#connected(), {
      ...callOptions(),
      logLevel: () => (session.record.settings.logLevel ?? 'debug') as LoggingLevel,
    })
  }

  #exchange(run: number): Exchange {
    const exchange = this.#options.exchanges.get(run)
    if (exchange === undefined) throw new Error('Cannot go on with call: it is over')
    return exchange
  }
}
