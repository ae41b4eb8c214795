import type { JSONRPCRequest } from '@modelcontextprotocol/server'
import type { RpcOutcome, Settings } from './store.ts'

/** The settings of a session after `request` went well; `undefined` if it changed none. */
export function settingsAfter(
  { method, params }: JSONRPCRequest,
  outcome: RpcOutcome,
  settings: Settings,
): Settings | undefined {
  if ('error' in outcome) return undefined
  const uri = String(params?.['uri'])
  const others = settings.subscriptions.filter((known) => known !== uri)
  switch (method) {
    case 'logging/setLevel':
      return { ...settings, logLevel: String(params?.['level']) }
    case 'resources/subscribe':
      return { ...settings, subscriptions: [...others, uri] }
    case 'resources/unsubscribe':
      return { ...settings, subscriptions: others }
    default:
      return undefined
  }
}
