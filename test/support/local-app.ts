import { parseConfig } from '../../mcp/config.ts'
import { createApp } from '../../mcp/http/app.ts'
import { anonymous, type Authenticate } from '../../mcp/http/auth.ts'
import { StatelessServer } from '../../mcp/http/stateless.ts'
import type { LogEvent } from '../../mcp/log.ts'
import { systemClock, type Clock } from '../../mcp/session/clock.ts'
import { randomText, type SessionId } from '../../mcp/session/ids.ts'
import { LocalRouter } from '../../mcp/session/local-router.ts'
import { createMemoryStore } from '../../mcp/session/memory-store.ts'
import type { Peers } from '../../mcp/session/peers.ts'
import type { SessionStore } from '../../mcp/session/store.ts'
import type { Pack } from '../../mcp/session/tool.ts'
import { tools } from '../../mcp/tools/index.ts'
import type { Fetch } from './mcp.ts'

export interface LocalApp {
  readonly fetch: Fetch
  readonly router: LocalRouter
  readonly events: LogEvent[]
}

export interface LocalAppOptions {
  readonly env?: Record<string, string>
  readonly clock?: Clock
  readonly pack?: Pack
  readonly store?: SessionStore
  readonly instance?: string
  readonly secrets?: readonly [string, ...string[]]
  readonly authenticate?: Authenticate
  readonly peers?: Peers
  readonly maxLive?: number
  readonly liveIdleMs?: number
  readonly onQuiet?: () => void
  readonly onEvent?: (event: LogEvent) => void
}

/** The server in this process. Two of them on one store are two instances of a fleet. */
export function createLocalApp(options: LocalAppOptions = {}): LocalApp {
  const { clock = systemClock, pack = tools, instance = 'local-1' } = options
  const config = parseConfig(options.env ?? {})
  const store = options.store ?? createLocalStore(options)
  const events: LogEvent[] = []
  const log = (event: LogEvent): void => {
    events.push(event)
    options.onEvent?.(event)
  }
  const status = { startedAt: clock.now(), countSessions: () => Promise.resolve(1) }
  const router = new LocalRouter({
    ids: { mint: () => randomText(33) as SessionId, isMinted: () => true },
    maxLive: options.maxLive ?? 1000,
    liveIdleMs: options.liveIdleMs ?? 60_000,
    onQuiet: options.onQuiet ?? ((): void => undefined),
    pack,
    store,
    instance,
    clock,
    log,
    status,
    limits: config.runtime,
    ...(options.peers && { peers: options.peers }),
  })
  const stateless = new StatelessServer({
    ...config,
    pack,
    instance,
    clock,
    log,
    status,
    holder: router,
    secrets: () => Promise.resolve(options.secrets ?? ['the one of all local apps']),
    isForAll: config.sessions === 'off',
  })
  const app = createApp({
    ...config,
    router,
    stateless,
    authenticate: options.authenticate ?? anonymous,
    instance,
    clock,
    log,
    reachesStore: () => Promise.resolve(true),
  })
  return { fetch: async (request) => app.fetch(request), router, events }
}

export function createLocalStore({ clock = systemClock, env = {} }: LocalAppOptions): SessionStore {
  const { ttlMs, record } = parseConfig(env)
  return createMemoryStore({ ...record, ttlMs, now: () => clock.now(), standaloneTail: 1024 })
}
