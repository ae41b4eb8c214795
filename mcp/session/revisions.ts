/** The protocol revisions that have sessions over Streamable HTTP, newest first. */
export const REVISIONS = ['2025-11-25', '2025-06-18', '2025-03-26']
