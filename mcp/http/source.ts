import type { Principal } from '../session/ids.ts'
import { ANONYMOUS } from './auth.ts'

/** Whose share of sessions a new one is of: the principal's, or that of where nobodies come from. */
export function sourceOf(principal: Principal, address = 'unknown'): string {
  return principal === ANONYMOUS ? `address ${networkOf(address)}` : principal
}

/** An IPv4 address, or the /64 network of an IPv6 one: who has one address of it has them all. */
function networkOf(address: string): string {
  if (!address.includes(':')) return address
  const [, mapped] = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address) ?? []
  if (mapped !== undefined) return mapped
  const [head = '', tail = ''] = address.toLowerCase().split('::')
  const [before, after] = [head, tail].map((part) =>
    part.split(':').filter((group) => group !== ''),
  )
  const zeros = Math.max(0, 8 - (before?.length ?? 0) - (after?.length ?? 0))
  const groups = [...(before ?? []), ...Array.from({ length: zeros }, () => '0'), ...(after ?? [])]
  return `${groups
    .slice(0, 4)
    .map((group) => parseInt(group, 16).toString(16))
    .join(':')}::/64`
}
