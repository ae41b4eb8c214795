/** An answer, as far as it was read. */
export interface Answered {
  readonly status: number
  readonly headers: Headers
  readonly body: string
}

/** What is wrong with the answer to any request, whatever was asked. */
export function faultsIn({ status, headers, body }: Answered, method: string): string[] {
  const type = headers.get('content-type') ?? ''
  const isServed = status >= 200 && status < 300
  const faults: [what: string, isOne: boolean][] = [
    [`HTTP ${status}`, status < 200 || status >= 500],
    ['may be kept', !/(^|,) *no-store/.test(headers.get('cache-control') ?? '')],
    ['its type may be guessed', headers.get('x-content-type-options') !== 'nosniff'],
    ['is no JSON by its type', !isServed && type !== 'application/json'],
    // HEAD has no body to look at.
    [`is no error: ${body.slice(0, 200)}`, !isServed && method !== 'HEAD' && !isError(body)],
    ['does not say when to come back', status === 429 && !headers.has('retry-after')],
    ['has changed what all objects have', 'polluted' in {}],
  ]
  return faults.filter(([, isOne]) => isOne).map(([what]) => what)
}

/** Of JSON-RPC or of OAuth. */
function isError(body: string): boolean {
  const { jsonrpc, error } = parsed(body)
  if (typeof error === 'string') return jsonrpc === undefined
  const { code, message } = (error ?? {}) as { code?: unknown; message?: unknown }
  return jsonrpc === '2.0' && Number.isSafeInteger(code) && typeof message === 'string'
}

/** Whether what was asked for has not come about. */
export function isFailure({ body }: Answered): boolean {
  const { error, result } = parsed(body)
  return error !== undefined || (result as { isError?: boolean } | undefined)?.isError === true
}

function parsed(body: string): { jsonrpc?: unknown; error?: unknown; result?: unknown } {
  try {
    return (JSON.parse(body) ?? {}) as object
  } catch {
    return {}
  }
}
