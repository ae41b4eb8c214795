/** The protocol revisions that have sessions over Streamable HTTP, newest first. */
export const REVISIONS = ['2025-11-25', '2025-06-18', '2025-03-26']

/** The one that has none: each request says all that it needs, its session too if it has one. */
export const STATELESS_REVISION = '2026-07-28'
