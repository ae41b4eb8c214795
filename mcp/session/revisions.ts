const LATEST = '2025-11-25'

/** The protocol revisions that have sessions over Streamable HTTP, newest first. */
export const REVISIONS = [LATEST, '2025-06-18', '2025-03-26']

/** The one that has none: each request says all that it needs, its session too if it has one. */
export const STATELESS_REVISION = '2026-07-28'

/** The same with a revision that is spoken here; a server of somebody else's may know more. */
export function asSpoken<T extends { protocolVersion: string }>(params: T): T {
  return {
    ...params,
    protocolVersion: REVISIONS.find((one) => one === params.protocolVersion) ?? LATEST,
  }
}
