import { tooManyStreams } from '../mcp/errors.ts'
import type { Happening } from '../mcp/operator.ts'
import type { StreamId } from '../mcp/session/ids.ts'
import { FOLLOWED_FROM, packEvent } from './wire.ts'

// Tags of sockets that follow no stream; no stream has these names.
const STATE = 'state'
const OPERATOR = 'operator'

/** The sockets that an object may sleep behind: those of streams, which bear their names, and others. */
export class Sockets {
  readonly #ctx: Pick<DurableObjectState, 'acceptWebSocket' | 'getWebSockets'>

  constructor(ctx: Pick<DurableObjectState, 'acceptWebSocket' | 'getWebSockets'>) {
    this.#ctx = ctx
  }

  /** How many of its client's there are. */
  get count(): number {
    return this.#ctx.getWebSockets().length - this.#ctx.getWebSockets(OPERATOR).length
  }

  followerOf(stream: StreamId): WebSocket | undefined {
    const { OPEN } = WebSocket
    return this.#ctx.getWebSockets(stream).find(({ readyState }) => readyState === OPEN)
  }

  /** Whoever follows a stream takes the place of who did. */
  mustHaveRoom(stream: StreamId, max: number): void {
    if (this.count - this.#ctx.getWebSockets(stream).length >= max) throw tooManyStreams()
  }

  /** Lets go of who follows `stream`. */
  letGo(stream: StreamId, code: number): void {
    this.followerOf(stream)?.close(code)
  }

  /** A socket for a stream, or for another tag: its two ends. */
  accept(tag: string): { readonly client: WebSocket; readonly server: WebSocket } {
    const { 0: client, 1: server } = new WebSocketPair()
    this.#ctx.acceptWebSocket(server, [tag])
    return { client, server }
  }

  /** Tells of changes of the state, at once if there was one behind `last`. */
  watch(version: number, last: string | undefined): Response {
    const { client, server } = this.accept(STATE)
    const now = versionEvent(version)
    if (last !== undefined && last !== now.id) server.send(packEvent(now))
    return upgraded(client, now.id)
  }

  /** Tells an operator what happens. */
  show(): Response {
    return upgraded(this.accept(OPERATOR).client, OPERATOR)
  }

  get isShown(): boolean {
    return this.#ctx.getWebSockets(OPERATOR).length > 0
  }

  changed(version: number): void {
    const text = packEvent(versionEvent(version))
    for (const socket of this.#ctx.getWebSockets(STATE)) socket.send(text)
    this.happened({ kind: 'changed', version })
  }

  happened(what: Omit<Happening, 'at'>): void {
    const happening: Happening = { at: Date.now(), ...what }
    const text = packEvent({ id: OPERATOR, data: JSON.stringify(happening) })
    for (const socket of this.#ctx.getWebSockets(OPERATOR)) socket.send(text)
  }

  closeAll(code: number): void {
    for (const socket of this.#ctx.getWebSockets()) socket.close(code)
  }
}

export function upgraded(webSocket: WebSocket, from: string): Response {
  return new Response(null, { status: 101, webSocket, headers: { [FOLLOWED_FROM]: from } })
}

function versionEvent(version: number): { readonly id: string; readonly data: string } {
  return { id: `${STATE}.${version}`, data: '' }
}
