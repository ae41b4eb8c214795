import { Agent, request as httpRequest, type IncomingMessage } from 'node:http'
import { Readable } from 'node:stream'

/** Sends a request, and hangs up on it when `signal` says so. */
export type Send = (request: Request, signal?: AbortSignal) => Promise<Response>

/**
 * Sends each request to `url` on a connection of its own. The signal comes apart from the request, which
 * would forget it with the garbage. workerd's own listener takes nothing less than a reset for a client
 * that has gone before it was answered; others see that its side was closed.
 */
export function overSockets(url: string, hangingUp: 'closes' | 'resets'): Send {
  return async (request, signal) => {
    const body = await request.text()
    const agent = new Agent()
    const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>()
    const headers = Object.fromEntries(request.headers)
    const sent = httpRequest(url, { method: request.method, headers, agent }, resolve)
    sent.on('error', reject)
    sent.end(body)
    const close = (): void => {
      if (hangingUp === 'resets') sent.socket?.resetAndDestroy()
      else sent.socket?.destroy()
    }
    const hangUp = (): void => {
      if (sent.writableFinished) close()
      else sent.once('finish', close)
      reject(signal?.reason)
    }
    if (signal?.aborted === true) hangUp()
    else signal?.addEventListener('abort', hangUp, { once: true })
    const response = await promise
    response.on('error', () => undefined)
    response.once('close', () => agent.destroy())
    const answered = new Headers()
    for (const [name, value] of Object.entries(response.headers)) answered.set(name, String(value))
    return new Response(Readable.toWeb(response) as ReadableStream<Uint8Array>, {
      status: response.statusCode ?? 0,
      headers: answered,
    })
  }
}
