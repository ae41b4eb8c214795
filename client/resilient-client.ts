import {
  Client,
  type ClientOptions,
  type ConnectOptions,
  type Implementation,
  type Transport,
} from '@modelcontextprotocol/client'
import { ResilientTransport, type ResilientOptions } from './resilient-transport.ts'

export type { ClientEvent } from './events.ts'
export { ClientError } from './retry.ts'

export interface ResilientClientOptions extends ClientOptions, ResilientOptions {
  /** Where the service is, and where else if it is not there. */
  readonly urls: string | readonly string[]
}

/**
 * The official client, with calls that outlive killed servers, broken streams and lost sessions.
 * All its methods are the official ones; `connect` needs no transport. A call that cannot be
 * finished throws a `ClientError`, an answer of the server's is what it is to the official client.
 */
export class ResilientClient extends Client {
  readonly #options: ResilientClientOptions

  constructor(info: Implementation, options: ResilientClientOptions) {
    super(info, options)
    this.#options = options
  }

  override async connect(transport?: Transport, options?: ConnectOptions): Promise<void> {
    const { urls, ...rest } = this.#options
    await super.connect(transport ?? new ResilientTransport(urls, rest), options)
  }

  /** The id of the session the client is in; another one after a session was lost. */
  get sessionId(): string | undefined {
    return this.transport?.sessionId
  }

  /** Ends the session on the server. `close` leaves it there until it expires. */
  async terminateSession(): Promise<void> {
    const { transport } = this
    if (transport instanceof ResilientTransport) await transport.terminateSession()
  }
}
