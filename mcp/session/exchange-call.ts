import type { McpServer } from '@modelcontextprotocol/server'
import { createCall, type Call, type CallOptions } from './call.ts'
import { MAX_TIMER_MS } from './clock.ts'
import type { Exchange } from './exchange.ts'
import { refuseUnsafeKeys } from './server.ts'
import { relatedTo } from './transport.ts'

/** What a tool sees that runs for an exchange; what it asks the client goes through the SDK's server. */
export function createExchangeCall(
  { request, operations }: Exchange,
  connected: () => Promise<McpServer>,
  options: Omit<CallOptions, 'asks' | 'progressToken'>,
): Call {
  refuseUnsafeKeys(request.params)
  // However long it takes to come to the client, a question has its number at once.
  const how = (method: string) => ({
    relatedRequestId: relatedTo(operations.run, operations.reserve(method)),
    // How long it stays open is recorded with it; no second watch is to cut it short.
    timeout: MAX_TIMER_MS,
  })
  return createCall(operations, {
    ...options,
    progressToken: request.params?._meta?.progressToken,
    asks: {
      async elicit(form) {
        const its = how('elicitation/create')
        return (await connected()).server.elicitInput(form, its)
      },
      async sample(question) {
        const its = how('sampling/createMessage')
        return (await connected()).server.createMessage(question, its)
      },
    },
  })
}
