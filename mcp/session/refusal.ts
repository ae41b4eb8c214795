import { httpStatusOf, knownError, rpcErrorOf } from '../errors.ts'
import type { Log } from '../log.ts'
import type { Unserved } from './router.ts'

/** An error as an answer that can cross machines. */
export function refusalOf(error: unknown, log: Log): Unserved {
  const known = knownError(error, log)
  if (known.code === 'session_not_found') return { kind: 'gone' }
  const body = JSON.stringify({ jsonrpc: '2.0', id: null, error: rpcErrorOf(known) })
  return { kind: 'refused', status: httpStatusOf(known.code), body }
}
