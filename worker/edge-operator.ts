import type { Places } from '../durable-objects/places.ts'
import { forgetSession, shards } from '../durable-objects/session-index.ts'
import type { ShardPage } from '../durable-objects/shard.ts'
import type { Operator, Overview, SessionName } from '../mcp/operator.ts'
import type { Clock } from '../mcp/session/clock.ts'
import type { SessionId } from '../mcp/session/ids.ts'
import { metricsText } from './metrics-text.ts'
import type { ObjectRouter } from './object-router.ts'

/** An overview is all shards asked: this isolate asks them so often at most. */
export const OVERVIEW_MS = 5000
const MAX_SESSIONS = 200
const MAX_FAILOVERS = 50

export interface EdgeOperatorOptions {
  readonly places: Places
  readonly router: Pick<ObjectRouter, 'endAnyones' | 'show'>
  readonly clock: Clock
}

export interface EdgeOperator extends Operator {
  /** What Prometheus reads. */
  readonly metrics: () => Promise<{ text: string; contentType: string }>
}

/**
 * What the people who run an edge see of it, all by the index: isolates and objects are the platform's,
 * and know nothing of each other. It is as late as sessions are to tell, a minute at most.
 */
export function createEdgeOperator({ places, router, clock }: EdgeOperatorOptions): EdgeOperator {
  let known: { readonly pages: Promise<readonly ShardPage[]>; readonly at: number } | undefined
  const pages = () => {
    if (known === undefined || known.at <= clock.now() - OVERVIEW_MS) {
      const asked: Promise<readonly ShardPage[]> = Promise.all(
        shards(places).map(async (shard) => shard.page()),
      )
      known = { pages: asked, at: clock.now() }
      asked.catch(() => (known = undefined))
    }
    return known.pages
  }

  const find = async (name: SessionName): Promise<SessionId | undefined> => {
    const found = await Promise.all(shards(places).map((shard) => shard.find(name)))
    return found.find((id) => id !== undefined)
  }

  return {
    overview: async () => overviewOf(await pages(), clock.now()),
    metrics: async () => metricsText(await pages()),
    async end(name) {
      const id = await find(name)
      if (id === undefined) return false
      const hasEnded = await router.endAnyones(id)
      // Also if it was gone, and its object had not told.
      await forgetSession(places, id, undefined)
      known = undefined
      return hasEnded
    },
    async follow(name, signal) {
      const id = await find(name)
      return id && router.show(id, signal)
    },
  }
}

function overviewOf(pages: readonly ShardPage[], at: number): Overview {
  const latest = pages.flatMap((page) => page.latest)
  const failovers = pages.flatMap((page) => page.failovers)
  return {
    at,
    topology: 'edge',
    sessions: {
      total: pages.reduce((sum, { total }) => sum + total, 0),
      latest: latest.toSorted((a, b) => b.usedAt - a.usedAt).slice(0, MAX_SESSIONS),
    },
    instances: [],
    failovers: failovers.toSorted((a, b) => b.at - a.at).slice(0, MAX_FAILOVERS),
  }
}
