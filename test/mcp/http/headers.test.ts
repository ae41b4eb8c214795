import { expect, it } from 'vitest'
import { parseRouterKey } from '../../../mcp/http/headers.ts'

it.each([
  ['a1b2;number=7', { sender: 'a1b2', number: 7, settled: 7 }],
  ['a;number=1;number=2', { sender: 'a;number=1', number: 2, settled: 2 }],
  ['a1b2', { sender: 'a1b2', number: 0, settled: 0 }],
  ['a1b2/7', { sender: 'a1b2/7', number: 0, settled: 0 }],
  ['a1b2;number=', { sender: 'a1b2;number=', number: 0, settled: 0 }],
  ['a1b2;number=-1', { sender: 'a1b2;number=-1', number: 0, settled: 0 }],
  [';number=7', { sender: ';number=7', number: 0, settled: 0 }],
  ['a;number=9007199254740993', { sender: 'a;number=9007199254740993', number: 0, settled: 0 }],
])("takes a router's key %j for %j", (text, attempt) => {
  expect(parseRouterKey(text)).toEqual(attempt)
})
