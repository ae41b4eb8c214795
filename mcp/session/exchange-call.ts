import type { McpServer } from '@modelcontextprotocol/server'
import { createCall, type Call, type CallOptions } from './call.ts'
import type { Exchange } from './exchange.ts'
import { refuseUnsafeKeys } from './server.ts'

const MAX_TIMER_MS = 2 ** 31 - 1

/** What a tool sees that runs for an exchange; what it asks the client goes through the SDK's server. */
export function createExchangeCall(
  { request, operations }: Exchange,
  connected: () => Promise<McpServer>,
  options: Omit<CallOptions, 'asks' | 'progressToken'>,
): Call {
  refuseUnsafeKeys(request.params)
  // How long a question stays open is recorded with it; no second watch is to cut it short.
  const how = { relatedRequestId: operations.run, timeout: MAX_TIMER_MS }
  return createCall(operations, {
    ...options,
    progressToken: request.params?._meta?.progressToken,
    asks: {
      elicit: async (form) => (await connected()).server.elicitInput(form, how),
      sample: async (question) => (await connected()).server.createMessage(question, how),
    },
  })
}
