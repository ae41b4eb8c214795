import type { JSONRPCRequest } from '@modelcontextprotocol/server'
import type { RpcOutcome, Settings } from './store.ts'

export type SettingsChange = (settings: Settings) => Settings

/** What `request`, if it went well, changes of its session's settings; `undefined` for nothing. */
export function settingsChange(
  { method, params }: JSONRPCRequest,
  outcome: RpcOutcome,
): SettingsChange | undefined {
  if ('error' in outcome) return undefined
  const uri = String(params?.['uri'])
  const without = (uris: readonly string[]): string[] => uris.filter((known) => known !== uri)
  switch (method) {
    case 'logging/setLevel':
      return (before) => ({ ...before, logLevel: String(params?.['level']) })
    case 'resources/subscribe':
      return (before) => ({ ...before, subscriptions: [...without(before.subscriptions), uri] })
    case 'resources/unsubscribe':
      return (before) => ({ ...before, subscriptions: without(before.subscriptions) })
    default:
      return undefined
  }
}
