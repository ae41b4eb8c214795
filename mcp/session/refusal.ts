import { httpStatusOf, isServerError, rpcErrorOf, ServerError } from '../errors.ts'
import type { Log } from '../log.ts'
import type { Unserved } from './router.ts'

/** An error as an answer that can cross machines. What is not ours is logged and not told. */
export function refusalOf(error: unknown, log: Log): Unserved {
  const known = isServerError(error) ? error : new ServerError('internal_error', 'Internal error')
  if (known !== error) log({ event: 'request_failed', message: String(error) })
  if (known.code === 'session_not_found') return { kind: 'gone' }
  const body = JSON.stringify({ jsonrpc: '2.0', id: null, error: rpcErrorOf(known) })
  return { kind: 'refused', status: httpStatusOf(known.code), body }
}
