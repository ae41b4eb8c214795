import { createDeadline } from './deadline.ts'
import type { RedisSubscriber } from './redis-peers.ts'
import { nameOf, type Address } from './redis-place.ts'

export interface RovingOptions {
  /** Where a channel is told just now; `undefined` or a rejection: nobody knows. */
  readonly locate: (channel: string) => Promise<Address | undefined>
  /** A client that is not connected yet, and that does not connect again. */
  readonly connect: (address: Address) => ListeningClient
}

/** What is needed of a Redis client. */
interface ListeningClient {
  connect(): Promise<unknown>
  destroy(): void
  ping(): Promise<unknown>
  sSubscribe(channel: string, hear: Hear): Promise<unknown>
  sUnsubscribe(channel: string, hear: Hear): Promise<unknown>
  on(event: 'error', act: (error: unknown) => void): unknown
  on(event: 'sharded-channel-moved', act: (channel: string) => void): unknown
}

type Hear = (message: string) => void

interface Channel {
  readonly name: string
  readonly hearers: Set<Hear>
  readonly hear: Hear
  /** Unset while it is nowhere. */
  at?: Node | undefined
}

interface Node {
  readonly name: string
  readonly client: ListeningClient
  readonly connected: Promise<unknown>
}

const LOOK_MS = 1000
const ANSWER_MS = 1200
const AGAIN_MS = 100

/**
 * Listens where each channel is told: at its master, and after a failover at another one. Whatever was
 * lost on the way, `ready` says so when all are heard again. One connection to each master that has any.
 */
export class RovingSubscriber implements RedisSubscriber {
  readonly #options: RovingOptions
  readonly #within = createDeadline(ANSWER_MS)
  readonly #channels = new Map<string, Channel>()
  readonly #nodes = new Map<string, Node>()
  readonly #onReady: (() => void)[] = []
  #looking: NodeJS.Timeout | undefined
  #isMending = false
  #isDestroyed = false

  constructor(options: RovingOptions) {
    this.#options = options
    this.#lookAgain()
  }

  async sSubscribe(name: string, hear: Hear): Promise<void> {
    const channel = this.#channels.get(name) ?? createChannel(name)
    this.#channels.set(name, channel)
    channel.hearers.add(hear)
    try {
      if (channel.at === undefined) await this.#place(channel)
    } catch (error) {
      await this.sUnsubscribe(name, hear)
      throw error
    }
  }

  async sUnsubscribe(name: string, hear: Hear): Promise<void> {
    const channel = this.#channels.get(name)
    channel?.hearers.delete(hear)
    if (channel === undefined || channel.hearers.size > 0) return
    this.#channels.delete(name)
    leave(channel)
  }

  on(_event: 'ready', act: () => void): void {
    this.#onReady.push(act)
  }

  destroy(): void {
    this.#isDestroyed = true
    clearTimeout(this.#looking)
    for (const { client } of this.#nodes.values()) client.destroy()
    this.#nodes.clear()
  }

  async #place(channel: Channel): Promise<void> {
    const address = await this.#options.locate(channel.name)
    if (address === undefined) throw new Error(`Cannot find who tells of "${channel.name}"`)
    const node = this.#nodeAt(address)
    if (channel.at === node) return
    await this.#within(node.connected)
    await this.#within(node.client.sSubscribe(channel.name, channel.hear))
    // A look may have placed it there meanwhile: to leave that place would be to leave this one.
    if (channel.at === node) return
    leave(channel)
    channel.at = node
    const isWanted = this.#channels.get(channel.name) === channel
    if (!isWanted) leave(channel)
    // It was lost meanwhile, so nobody has asked for another.
    if (isWanted && this.#nodes.get(node.name) !== node) this.#lost(node)
  }

  #nodeAt(address: Address): Node {
    const name = nameOf(address)
    const known = this.#nodes.get(name)
    if (known !== undefined) return known
    const client = this.#options.connect(address)
    const node: Node = { name, client, connected: client.connect() }
    this.#nodes.set(name, node)
    const lost = (): void => this.#lost(node)
    client.on('error', lost)
    node.connected.catch(lost)
    // A cluster has given it to another node.
    client.on('sharded-channel-moved', (moved) => {
      const channel = this.#channels.get(moved)
      if (channel?.at === node) channel.at = undefined
      void this.#mend()
    })
    return node
  }

  #lost(node: Node): void {
    if (this.#nodes.get(node.name) === node) this.#nodes.delete(node.name)
    node.client.destroy()
    for (const channel of this.#channels.values()) {
      if (channel.at === node) channel.at = undefined
    }
    void this.#mend()
  }

  /** Finds all channels a place again that have none, and says so. */
  async #mend(): Promise<void> {
    const nowhere = (): Channel[] =>
      this.#isDestroyed ? [] : [...this.#channels.values()].filter(({ at }) => at === undefined)
    if (this.#isMending || nowhere().length === 0) return
    this.#isMending = true
    while (nowhere().length > 0) {
      await Promise.allSettled(nowhere().map((channel) => this.#place(channel)))
      if (nowhere().length > 0) await new Promise((resolve) => setTimeout(resolve, AGAIN_MS))
    }
    this.#isMending = false
    for (const act of this.#onReady) act()
  }

  #lookAgain(): void {
    const look = (): void => void this.#look().finally(() => this.#lookAgain())
    if (!this.#isDestroyed) this.#looking = setTimeout(look, LOOK_MS).unref()
  }

  /** A connection can be dead without a word, and a master can be another without a lost connection. */
  async #look(): Promise<void> {
    const nodes = Array.from(this.#nodes.values(), async (node) => {
      const answer = node.connected.then(() => node.client.ping())
      await this.#within(answer).catch(() => this.#lost(node))
    })
    const channels = Array.from(this.#channels.values(), async (channel) => {
      const address = await this.#options.locate(channel.name).catch(() => undefined)
      if (address === undefined || channel.at === undefined) return
      if (nameOf(address) !== channel.at.name) leave(channel)
    })
    await Promise.all([...nodes, ...channels])
    void this.#mend()
  }
}

function createChannel(name: string): Channel {
  const hearers = new Set<Hear>()
  const hear = (message: string): void => {
    for (const one of hearers) one(message)
  }
  return { name, hearers, hear }
}

function leave(channel: Channel): void {
  channel.at?.client.sUnsubscribe(channel.name, channel.hear).catch(() => undefined)
  channel.at = undefined
}
