import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'

export interface Front {
  readonly port: number
  readonly close: () => Promise<void>
}

const RETRY_MS = 20

/**
 * Passes connections on to `port`, and holds those that come while nobody listens there. What was
 * connected when the server died is cut.
 */
export async function startFront(port: number): Promise<Front> {
  const open = new Set<Socket>()
  const server = createServer({ allowHalfOpen: true }, (client) => {
    open.add(client)
    client.on('error', () => undefined)
    client.on('close', () => open.delete(client))
    void pass(client, port)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    port: (server.address() as AddressInfo).port,
    async close() {
      for (const client of open) client.destroy()
      server.close()
      await once(server, 'close')
    },
  }
}

async function pass(client: Socket, port: number): Promise<void> {
  for (;;) {
    if (client.destroyed) return
    const upstream = connect({ port, host: '127.0.0.1', allowHalfOpen: true })
    const connected = await Promise.race([
      once(upstream, 'connect').then(() => true),
      once(upstream, 'close').then(() => false),
    ]).catch(() => false)
    if (connected) return join(client, upstream)
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS))
  }
}

function join(client: Socket, upstream: Socket): void {
  upstream.on('error', () => undefined)
  upstream.on('close', () => client.destroy())
  client.on('close', () => upstream.destroy())
  client.pipe(upstream)
  upstream.pipe(client)
}
