import type { JSONRPCRequest } from '@modelcontextprotocol/server'
import { ServerError } from '../errors.ts'
import type { Limits } from '../limits.ts'
import type { RpcOutcome, Settings } from './store.ts'

export type SettingsChange = (settings: Settings) => Settings

/** What `request`, if it went well, changes of its session's settings; `undefined` for nothing. */
export function settingsChange(
  request: JSONRPCRequest,
  outcome: RpcOutcome,
  limits: Pick<Limits, 'maxSubscriptions'>,
): SettingsChange | undefined {
  if ('error' in outcome) return undefined
  const { method, params } = request
  const uri = String(params?.['uri'])
  const without = (uris: readonly string[]): string[] => uris.filter((known) => known !== uri)
  switch (method) {
    case 'logging/setLevel':
      return (before) => ({ ...before, logLevel: String(params?.['level']) })
    case 'resources/subscribe':
      return (before) => {
        checkSettings(request, before, limits)
        return { ...before, subscriptions: [...without(before.subscriptions), uri] }
      }
    case 'resources/unsubscribe':
      return (before) => ({ ...before, subscriptions: without(before.subscriptions) })
    default:
      return undefined
  }
}

const MAX_URI_LENGTH = 2048

/** Throws for a request that would have the session remember too much. */
function checkSettings(
  { method, params }: JSONRPCRequest,
  { subscriptions }: Settings,
  { maxSubscriptions }: Pick<Limits, 'maxSubscriptions'>,
): void {
  const uri = params?.['uri']
  // What is none the SDK refuses.
  if (method !== 'resources/subscribe' || typeof uri !== 'string') return
  if (uri.length > MAX_URI_LENGTH) {
    const why = `its URI is longer than ${MAX_URI_LENGTH} characters`
    throw new ServerError('invalid_params', `Cannot subscribe to resource: ${why}`)
  }
  if (subscriptions.length < maxSubscriptions || subscriptions.includes(uri)) return
  const why = `the session has ${maxSubscriptions} subscriptions`
  throw new ServerError('too_many_subscriptions', `Cannot subscribe to resource: ${why}`)
}
