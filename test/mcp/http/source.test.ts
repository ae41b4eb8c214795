import { expect, it } from 'vitest'
import { ANONYMOUS } from '../../../mcp/http/auth.ts'
import { sourceOf } from '../../../mcp/http/source.ts'
import type { Principal } from '../../../mcp/session/ids.ts'

it.each([
  ['203.0.113.7', '203.0.113.7'],
  ['::ffff:203.0.113.7', '203.0.113.7'],
  ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2::/64'],
  ['2001:DB8:0001:2::9', '2001:db8:1:2::/64'],
  ['2001:db8::9', '2001:db8:0:0::/64'],
  ['::1', '0:0:0:0::/64'],
  ['fe80::1%eth0', 'fe80:0:0:0::/64'],
  [undefined, 'unknown'],
])('who says no name is counted by where they come from: %s', (address, network) => {
  expect(sourceOf(ANONYMOUS, address)).toBe(`address ${network}`)
})

it('who says a name is counted by it, wherever they come from', () => {
  expect(sourceOf('alice' as Principal, '203.0.113.7')).toBe('alice')
})
