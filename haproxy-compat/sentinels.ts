import { createDeadline } from './deadline.ts'
import { nameOf, type Address } from './redis-place.ts'

export interface SentinelOptions<Client> {
  readonly nodes: readonly [Address, ...Address[]]
  /** What they call the master. */
  readonly name: string
  readonly askAt: (address: Address) => AskedClient
  /** A client of the master, that connects by itself. */
  readonly open: (master: Address) => Client
  /** Is told why nobody could be asked. */
  readonly failed?: (error: unknown) => void
}

/** What is needed of a Redis client: one that is not connected yet, and does not connect again. */
interface AskedClient {
  connect(): Promise<unknown>
  destroy(): void
  sendCommand(command: string[]): Promise<unknown>
  on(event: 'error', act: (error: unknown) => void): unknown
}

interface MasterClient {
  readonly isReady: boolean
  destroy(): void
}

export interface Master<Client> {
  readonly address: Address
  readonly client: Client
}

const LOOK_MS = 200
const ANSWER_MS = 1200

/**
 * The master that Sentinels name, for as long as they name it. They are asked again and again, which
 * needs no more of them than an answer: what one of them would tell by itself may get lost with it.
 */
export class Sentinels<Client extends MasterClient> {
  readonly #options: SentinelOptions<Client>
  readonly #within = createDeadline(ANSWER_MS)
  #at = 0
  #asked: AskedClient | undefined
  #master: Master<Client> | undefined
  #looking: NodeJS.Timeout | undefined
  #isDestroyed = false

  constructor(options: SentinelOptions<Client>) {
    this.#options = options
  }

  /** Resolves when there is a master that can be reached. */
  async connect(): Promise<void> {
    while (this.#master?.client.isReady !== true) {
      await this.#look()
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS))
    }
    this.#lookAgain()
  }

  get master(): Master<Client> {
    if (this.#master === undefined) throw new Error('Cannot tell who the master is')
    return this.#master
  }

  destroy(): void {
    this.#isDestroyed = true
    clearTimeout(this.#looking)
    this.#leave()
    this.#master?.client.destroy()
  }

  #lookAgain(): void {
    const look = (): void => void this.#look().then(() => this.#lookAgain())
    if (!this.#isDestroyed) this.#looking = setTimeout(look, LOOK_MS).unref()
  }

  async #look(): Promise<void> {
    const told = await this.#ask().catch((error: unknown) => {
      this.#options.failed?.(error)
      return undefined
    })
    // It does not answer, or knows less than others may: its master is not there.
    if (told === undefined || this.#master?.client.isReady === false) this.#leave()
    if (told === undefined || this.#isDestroyed) return
    if (this.#master !== undefined && nameOf(told) === nameOf(this.#master.address)) return
    this.#master?.client.destroy()
    this.#master = { address: told, client: this.#options.open(told) }
  }

  async #ask(): Promise<Address | undefined> {
    const { nodes, name, askAt } = this.#options
    if (this.#asked === undefined) {
      const asked = askAt(nodes[this.#at] ?? nodes[0])
      asked.on('error', () => undefined)
      this.#asked = asked
      await this.#within(asked.connect())
    }
    const command = ['SENTINEL', 'GET-MASTER-ADDR-BY-NAME', name]
    const answer = await this.#within(this.#asked.sendCommand(command))
    if (!Array.isArray(answer)) return undefined
    const [host, port] = answer.map(String)
    return host === undefined ? undefined : { host, port: Number(port) }
  }

  /** The next one is asked from now on. */
  #leave(): void {
    this.#asked?.destroy()
    this.#asked = undefined
    this.#at = (this.#at + 1) % this.#options.nodes.length
  }
}
