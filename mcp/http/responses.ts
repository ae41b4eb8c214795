import { httpStatusOf, rpcErrorOf, type ServerError } from '../errors.ts'

// What is too much or away now is worth another try soon.
const RETRY_AFTER_SECONDS = '1'

export function json(
  body: string,
  status: number,
  more: Readonly<Record<string, string>> = {},
): Response {
  const headers = {
    'content-type': 'application/json',
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

/** `response`, and `act` once it has been sent or nobody reads it any more. */
export function whenOver({ body, status, headers }: Response, act: () => void): Response {
  if (body === null) {
    act()
    return new Response(null, { status, headers })
  }
  const reader = body.getReader()
  const watched = new ReadableStream<Uint8Array>({
    async pull(controller) {
      const { done, value } = await reader.read()
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
