/** The client of Cloudflare's `agents`: an Agent in a Worker, told what to do by HTTP. */
import { randomUUID } from 'node:crypto'
import { startWrangler, type Wrangler } from '../support/wrangler.ts'
import {
  outcomeOf,
  type ClientKind,
  type Heard,
  type TestClient,
  type Tool,
} from './client-kind.ts'

const CAPABLE = { from: 'agents', hears: true, asks: true }

export function startAgents(): Promise<Wrangler> {
  return startWrangler({ config: 'test/clients/agent/wrangler.toml' })
}

/** Agents of the Worker at `host`. */
export function agents(host: () => string): readonly ClientKind[] {
  return [
    {
      ...CAPABLE,
      name: '`agents`, as it comes',
      revision: '2026-07-28',
      connect: (url) => connectAgent(host(), url, 'auto'),
    },
    {
      ...CAPABLE,
      name: '`agents`, `legacy`',
      revision: '2025-11-25',
      connect: (url) => connectAgent(host(), url, 'legacy'),
    },
  ]
}

interface Connected {
  readonly revision: string
  readonly session?: string
  readonly tools: readonly Tool[]
}

interface Called {
  readonly result: { isError?: boolean; structuredContent?: unknown; content?: unknown }
  readonly heard: Heard
}

interface AgentClient extends TestClient {
  /** Ends its object as the platform does: memory is gone, storage stays. */
  readonly reset: () => Promise<void>
}

export async function connectAgent(
  host: string,
  url: string,
  mode: 'auto' | 'legacy',
): Promise<AgentClient> {
  const name = randomUUID()
  const tell = async <T>(order: object): Promise<T> => {
    const request = { method: 'POST', body: JSON.stringify(order) }
    const response = await fetch(`${host}/agents/client-agent/${name}`, request)
    if (!response.ok) throw new Error(await response.text())
    return (await response.json()) as T
  }
  const { revision, session, tools } = await tell<Connected>({ do: 'connect', url, mode })
  const heard: Heard = { levels: [], progress: [] }
  return {
    revision,
    session,
    heard,
    tools: () => Promise.resolve(tools),
    call: (tool, args = {}) =>
      outcomeOf(async () => {
        const called = await tell<Called>({ do: 'call', name: tool, args })
        heard.levels.push(...called.heard.levels)
        heard.progress.push(...called.heard.progress)
        return called.result
      }),
    read: (uri) => tell({ do: 'read', uri }),
    async reset() {
      const answered = await tell({ do: 'reset' }).then(
        () => true,
        () => false,
      )
      if (answered) throw new Error('Cannot reset agent: it has answered')
    },
    close: () => tell({ do: 'close' }),
  }
}
