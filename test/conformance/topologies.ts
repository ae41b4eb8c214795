import { startFleet } from '../support/fleet.ts'
import { startNode } from '../support/node.ts'
import { startWrangler } from '../support/wrangler.ts'

/** A server of the fixtures, until it is stopped. */
export interface Served {
  readonly url: string
  readonly stop: () => Promise<unknown>
}

export interface Topology {
  readonly name: string
  readonly start: () => Promise<Served>
}

const NODE_ENTRY = 'test/conformance/server.ts'

/** Each way to run a pack. */
export const TOPOLOGIES: readonly Topology[] = [
  {
    name: 'the edge',
    start: async () => {
      const { url, kill } = await startWrangler({ entry: 'test/conformance/worker.ts' })
      return { url: `${url}/mcp`, stop: kill }
    },
  },
  {
    name: 'one Node process',
    start: async () => {
      const { url, kill } = await startNode({}, NODE_ENTRY)
      return { url: `${url}/mcp`, stop: () => kill('SIGTERM') }
    },
  },
  { name: 'the fleet', start: () => startFleet({ SERVER_ENTRY: NODE_ENTRY }) },
]
