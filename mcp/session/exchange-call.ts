import type { ServerContext } from '@modelcontextprotocol/server'
import { createCall, type Call, type CallOptions } from './call.ts'
import type { Exchange } from './exchange.ts'
import { refuseUnsafeKeys } from './server.ts'

const MAX_TIMER_MS = 2 ** 31 - 1

/** What a tool sees that runs for an exchange. */
export function createExchangeCall(
  { request, operations }: Exchange,
  { mcpReq }: ServerContext,
  options: Omit<CallOptions, 'asks' | 'progressToken' | 'signal'>,
): Call {
  refuseUnsafeKeys(request.params)
  const { signal, _meta } = mcpReq
  // How long a question stays open is recorded with it; no second watch is to cut it short.
  const ask = { relatedRequestId: mcpReq.id, timeout: MAX_TIMER_MS, signal }
  return createCall(operations, {
    ...options,
    signal,
    progressToken: _meta?.progressToken,
    asks: {
      elicit: (form) => mcpReq.elicitInput(form, ask),
      sample: (question) => mcpReq.requestSampling(question, ask),
    },
  })
}
