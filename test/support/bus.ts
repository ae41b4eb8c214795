import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'

export interface Bus {
  /** Redis, through here. */
  readonly url: string
  /** Ends the connections that listen to news, and all that are made for it, until `mend`. */
  readonly cut: () => void
  readonly mend: () => void
  /** How many have tried to listen and were refused. */
  readonly refused: () => number
  readonly stop: () => void
}

/** A way to the Redis at `url` on which news can be lost while commands go through. */
export async function startBus(url: string): Promise<Bus> {
  const listening = new Set<Socket>()
  const open = new Set<Socket>()
  const state = { isCut: false, refused: 0 }
  const server = createServer((socket) => {
    const redis = connect(Number(new URL(url).port), '127.0.0.1')
    for (const [from, to] of [
      [socket, redis],
      [redis, socket],
    ] as const) {
      open.add(from)
      from.on('error', () => undefined)
      from.on('close', () => {
        open.delete(from)
        listening.delete(from)
        to.destroy()
      })
      from.pipe(to)
    }
    socket.on('data', (chunk) => {
      if (!/\bssubscribe\b/i.test(chunk.toString('latin1'))) return
      listening.add(socket)
      if (!state.isCut) return
      state.refused++
      socket.destroy()
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    url: `redis://127.0.0.1:${(server.address() as AddressInfo).port}`,
    cut() {
      state.isCut = true
      for (const socket of listening) socket.destroy()
    },
    mend: () => void (state.isCut = false),
    refused: () => state.refused,
    stop() {
      server.close()
      for (const socket of open) socket.destroy()
    },
  }
}
