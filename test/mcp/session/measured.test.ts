import { expect, it } from 'vitest'
import { ServerError } from '../../../mcp/errors.ts'
import type { Measured } from '../../../mcp/meter.ts'
import { systemClock } from '../../../mcp/session/clock.ts'
import type { ExchangeAnswer } from '../../../mcp/session/exchange-answer.ts'
import { measureExchanges } from '../../../mcp/session/measured.ts'

const request = {
  jsonrpc: '2.0',
  id: 1,
  method: 'tools/call',
  params: { name: 'made_up' },
} as const

it.each<[string, ExchangeAnswer, string | undefined]>([
  ['result', { kind: 'reply', outcome: { result: {} } }, 'ok'],
  [
    'result that is an error',
    { kind: 'reply', outcome: { result: { isError: true } } },
    'tool_error',
  ],
  [
    'error that nobody knows',
    { kind: 'reply', outcome: { error: { code: 7, message: '' } } },
    'other',
  ],
  [
    'failure',
    { kind: 'failed', error: new ServerError('store_unavailable', '') },
    'store_unavailable',
  ],
  // It is measured where it goes on.
  [
    'call that goes on elsewhere',
    { kind: 'failed', error: new ServerError('call_interrupted', '') },
    undefined,
  ],
])('a %s is measured once, with no name that a client made up', (_what, answer, outcome) => {
  const measured: Measured[] = []
  const meter = (one: Measured): void => void measured.push(one)
  const settled = measureExchanges({ pack: { tools: [] }, clock: systemClock, meter })
  settled({ request, startedAt: Date.now() }, answer)
  const expected = { kind: 'call', method: 'tools/call', tool: undefined, outcome }
  expect(measured).toMatchObject(outcome === undefined ? [] : [expected])
})
