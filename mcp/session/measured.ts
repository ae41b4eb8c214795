import type { JSONRPCRequest } from '@modelcontextprotocol/server'
import { isErrorCode, ServerError } from '../errors.ts'
import type { Measured, Meter } from '../meter.ts'
import type { Clock } from './clock.ts'
import type { Exchange } from './exchange.ts'
import type { ExchangeAnswer } from './exchange-answer.ts'
import type { RpcOutcome } from './store.ts'
import type { Pack, Tool } from './tool.ts'

/** What is measured of a client's request that has come to `outcome`. */
export function measuredCall(
  { method, params }: Pick<JSONRPCRequest, 'method' | 'params'>,
  tools: readonly Tool[],
  outcome: RpcOutcome | ServerError,
  tookMs: number,
): Measured {
  const name = method === 'tools/call' ? params?.['name'] : undefined
  const tool = tools.find((one) => one.name === name)?.name
  return { kind: 'call', method, tool, outcome: nameOf(outcome), tookMs }
}

/** Measures exchanges when they are over. */
export function measureExchanges({ pack, clock, meter }: Measuring) {
  return (
    { request, startedAt }: Pick<Exchange, 'request' | 'startedAt'>,
    answer: ExchangeAnswer,
  ): void => {
    if (answer.kind === 'stream') return
    const outcome = answer.kind === 'reply' ? answer.outcome : answer.error
    // One that goes on elsewhere is measured there.
    if (outcome instanceof ServerError && outcome.code === 'call_interrupted') return
    meter(measuredCall(request, pack.tools, outcome, clock.now() - startedAt))
  }
}

interface Measuring {
  readonly pack: Pick<Pack, 'tools'>
  readonly clock: Clock
  readonly meter: Meter
}

/** Errors that the SDK answers with; a tool's own may have any number. */
const RPC_ERRORS = new Map<unknown, string>([
  [-32600, 'invalid_request'],
  [-32601, 'method_not_found'],
  [-32602, 'invalid_params'],
  [-32603, 'internal_error'],
  [-32800, 'cancelled'],
])

function nameOf(outcome: RpcOutcome | ServerError): string {
  if (outcome instanceof ServerError) return outcome.code
  if ('result' in outcome) return outcome.result['isError'] === true ? 'tool_error' : 'ok'
  const { code, data } = outcome.error
  const type = (data as { readonly type?: unknown } | undefined)?.type
  return isErrorCode(type) ? type : (RPC_ERRORS.get(code) ?? 'other')
}
