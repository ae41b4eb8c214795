/** Names that clients give themselves, and what is shown of name and version. */
export const NAMES_TO_CUT = [
  // Half of a surrogate pair.
  ['\ud83d', '\ufffd 1'],
  ['a'.repeat(99) + '\u{1f600}', 'a'.repeat(99) + '\ufffd'],
] as const
