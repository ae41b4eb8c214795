import * as z from 'zod'
import { parseSettings } from '../mcp/config.ts'
import type { Env } from './env.ts'
import type { SessionObject } from './mcp-session.ts'
import type { SessionIndex } from './session-index.ts'

const settings = z.object({
  /** Sessions run there, and are kept there, and nowhere else. */
  JURISDICTION: z.enum(['eu', 'us', 'fedramp', 'fedramp-high']).optional(),
  /** Objects are made there if they can be, and not near who asks for them first. */
  LOCATION_HINT: z
    .enum(['wnam', 'enam', 'sam', 'weur', 'eeur', 'apac', 'apac-ne', 'apac-se', 'oc', 'afr', 'me'])
    .optional(),
})

/** Where sessions and their index live, as the settings have it. */
export interface Places {
  /** The object of a session that is about to begin; nothing is woken, and nothing made. */
  newSession(): DurableObjectId
  /** The object of session `id`; `undefined`, with nothing woken, for an id that was not minted. */
  find(id: string): DurableObjectId | undefined
  session(object: DurableObjectId): DurableObjectStub<SessionObject>
  index(name: string): DurableObjectStub<SessionIndex>
}

/** Throws with one line per setting that can't be used. */
export function placesOf(env: Env): Places {
  const { SESSION_OBJECTS, INDEX } = env
  const { JURISDICTION, LOCATION_HINT } = parseSettings(settings, env)
  const hint = LOCATION_HINT === undefined ? {} : { locationHint: LOCATION_HINT }
  // Workerd on this machine knows none, and refuses to be asked for one.
  const within = <T extends Rpc.DurableObjectBranded>(objects: DurableObjectNamespace<T>) =>
    JURISDICTION === undefined ? objects : objects.jurisdiction(JURISDICTION)
  return {
    newSession: () => within(SESSION_OBJECTS).newUniqueId(),
    find(id) {
      try {
        // Of any jurisdiction: those that were begun before the setting was changed go on.
        const object = SESSION_OBJECTS.idFromString(id)
        // It takes capitals as well. A session has one name.
        return object.toString() === id ? object : undefined
      } catch {
        return undefined
      }
    },
    session: (object) => SESSION_OBJECTS.get(object, hint),
    index: (name) => within(INDEX).getByName(name, hint),
  }
}
