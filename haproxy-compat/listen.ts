import { once } from 'node:events'
import { ServerResponse, type IncomingMessage } from 'node:http'
import { serve } from '@hono/node-server'
import type { Hono } from 'hono'
import { ServerError } from '../mcp/errors.ts'
import { errorResponse } from '../mcp/http/responses.ts'

/** Has `fetch` served over HTTP, with bounds on what a request may be before the app sees it. */
export async function listen(
  fetch: Hono['fetch'],
  { host: hostname, port, maxHeaders }: Listening,
) {
  const serverOptions = {
    ServerResponse: WholeResponse,
    maxHeaderSize: MAX_HEAD_BYTES,
    headersTimeout: HEAD_MS,
    requestTimeout: REQUEST_MS,
    connectionsCheckingInterval: 1000,
  }
  const bounded: FetchCallback = (request, env) => {
    // Node has a limit of its own, but leaves out what is over it.
    const isOver = env.incoming.rawHeaders.length > 2 * maxHeaders
    return isOver ? tooManyHeaders() : fetch(request, env)
  }
  const server = serve({ fetch: bounded, hostname, port, serverOptions })
  await once(server, 'listening')
  return server.setTimeout(SILENT_MS)
}

interface Listening {
  readonly host: string
  readonly port: number
  readonly maxHeaders: number
}

const MAX_HEAD_BYTES = 16 * 1024
// A client that takes longer to say what it wants is gone, or means harm.
const HEAD_MS = 10_000
const REQUEST_MS = 30_000
/** Of no sign from either side: as HAProxy's. A stream that is read has its comments. */
const SILENT_MS = 300_000

type FetchCallback = Parameters<typeof serve>[0]['fetch']

function tooManyHeaders(): Response {
  const why = 'its head has too many fields'
  return errorResponse(new ServerError('too_many_headers', `Cannot serve request: ${why}`))
}

/**
 * A stream's headers wait for its first event, which is there at once. Were they sent before it, a
 * client whose instance dies between the two would have no event to resume behind.
 */
class WholeResponse<T extends IncomingMessage> extends ServerResponse<T> {
  override flushHeaders(): void {
    // They go with what is written first.
  }
}
