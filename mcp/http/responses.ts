import { httpStatusOf, knownError, rpcErrorOf, ServerError } from '../errors.ts'
import type { Log } from '../log.ts'
import type { Refused } from '../session/router.ts'

// What is too much or away now is worth another try soon.
const RETRY_AFTER_SECONDS = '1'

/** For every answer: what it says is for its caller, now, and is what its type says. */
export const SAFE_HEADERS = { 'cache-control': 'no-store', 'x-content-type-options': 'nosniff' }

export function safe(response: Response): Response {
  for (const [name, value] of Object.entries(SAFE_HEADERS)) response.headers.set(name, value)
  return response
}

export function json(
  body: string,
  status: number,
  more: Readonly<Record<string, string>> = {},
): Response {
  const headers = {
    'content-type': 'application/json',
    ...SAFE_HEADERS,
    ...((status === 429 || status === 503) && { 'retry-after': RETRY_AFTER_SECONDS }),
    ...more,
  }
  return new Response(body, { status, headers })
}

export function errorResponse(
  error: ServerError,
  headers: Readonly<Record<string, string>> = {},
): Response {
  const body = JSON.stringify({ jsonrpc: '2.0', id: null, error: rpcErrorOf(error) })
  return json(body, httpStatusOf(error.code), headers)
}

/** A refusal as it goes out, and in a word why: an error code, or `unauthorized`. */
export class Refusal extends Error {
  readonly why: string
  readonly response: Response

  constructor(why: string, response: Response) {
    super(`Refused: ${why}`)
    this.why = why
    this.response = response
  }

  /** Whether there is too much of something. */
  get isLimit(): boolean {
    return [413, 429, 431].includes(this.response.status) || this.why === 'overloaded'
  }
}

/** Answers a request with the error that it has come to, and puts that on record. */
export function refuse(error: unknown, log: Log, from?: string): Response {
  const { why, isLimit, response } = error instanceof Refusal ? error : refusalFrom(error, log)
  log({ event: isLimit ? 'limit_hit' : 'request_refused', why, from })
  return response
}

function refusalFrom(error: unknown, log: Log): Refusal {
  const known = knownError(error, log)
  return new Refusal(known.code, errorResponse(known))
}

export function notAllowed(allow: string): Refusal {
  const error = new ServerError('method_not_allowed', `Method not allowed: use ${allow}`)
  return new Refusal(error.code, errorResponse(error, { allow }))
}

/** What a session's holder has refused. */
export function refused({ body, status }: Refused): Refusal {
  return new Refusal(whyOf(body), json(body, status))
}

function whyOf(body: string): string {
  const { error } = JSON.parse(body)
  // One of the SDK's has a code alone.
  return String(error?.data?.type ?? error?.code)
}

/** What a stream ends with that is cut. Node's server prints it: where that was, it need not say. */
export function unread(): Error {
  const error = new Error('The client does not read')
  error.stack = `${error}`
  return error
}

/** `response`, and `act` once it has been sent or nobody reads it any more. */
export function whenOver({ body, status, headers }: Response, act: () => void): Response {
  if (body === null) {
    act()
    return new Response(null, { status, headers })
  }
  const reader = body.getReader()
  const watched = new ReadableStream<Uint8Array>({
    async pull(controller) {
      const { done, value } = await reader.read().catch((error: unknown) => {
        act()
        throw error
      })
      if (value !== undefined) controller.enqueue(value)
      if (!done) return
      act()
      controller.close()
    },
    async cancel(reason) {
      act()
      await reader.cancel(reason)
    },
  })
  return new Response(watched, { status, headers })
}

/** `response`, which says what can't wait: who leaves more than `maxBytes` of it unread is cut. */
export function bounded(response: Response, maxBytes: number): Response {
  const { body, status, headers } = response
  if (body === null) return response
  const reader = body.getReader()
  async function forward(controller: ReadableStreamDefaultController<Uint8Array>): Promise<void> {
    for (;;) {
      const { done, value } = await reader.read()
      if (done) return controller.close()
      if ((controller.desiredSize ?? 0) <= 0) throw unread()
      controller.enqueue(value)
    }
  }
  const bound = new ReadableStream<Uint8Array>(
    {
      start(controller) {
        forward(controller).catch((error: unknown) => {
          controller.error(error)
          return reader.cancel()
        })
      },
      cancel: (reason) => reader.cancel(reason),
    },
    new ByteLengthQueuingStrategy({ highWaterMark: maxBytes }),
  )
  return new Response(bound, { status, headers })
}
