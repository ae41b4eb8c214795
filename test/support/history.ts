/** What a client asked of a session and what came of it; times are of `performance.now()`. */
export interface Operation {
  readonly kind: 'increment' | 'add_note' | 'get_counter' | 'list_notes'
  readonly invoked: number
  readonly completed: number
  /** The counter, or the number of notes, or the notes. */
  readonly value: number | readonly string[]
  /** What `add_note` added. */
  readonly note?: string
}

/** What is wrong with the history of one session in which nothing was left unanswered. */
export function faultsOf(
  operations: readonly Operation[],
  final: { readonly counter: number; readonly notes: readonly string[] },
): string[] {
  const of = (kind: Operation['kind']): Operation[] =>
    operations.filter((operation) => operation.kind === kind)
  return [
    ...countingFaults('increment', of('increment'), final.counter),
    ...countingFaults('add_note', of('add_note'), final.notes.length),
    ...readFaults(of('get_counter'), of('increment')),
    ...noteFaults(of('add_note'), of('list_notes'), final.notes),
  ]
}

/**
 * Linearizable, for operations that add one and answer the sum: exact, not a sample. The values are
 * 1 to n; and none had completed before one with a smaller value was invoked.
 */
function countingFaults(kind: string, operations: readonly Operation[], final: number): string[] {
  const sorted = operations.toSorted((a, b) => Number(a.value) - Number(b.value))
  const faults: string[] = []
  let earliest = 0
  for (const [index, { value, invoked, completed }] of sorted.entries()) {
    if (value !== index + 1) {
      faults.push(`${kind}: ${String(value)} in place of ${index + 1}`)
      break
    }
    if (completed < earliest)
      faults.push(`${kind}: ${String(value)} had completed before a smaller value began`)
    earliest = Math.max(earliest, invoked)
  }
  if (final !== sorted.length) faults.push(`${kind}: ${sorted.length} answered, ${final} in effect`)
  return faults
}

/** A read sees at least what had completed when it was invoked, and at most what had begun. */
function readFaults(reads: readonly Operation[], increments: readonly Operation[]): string[] {
  return reads.flatMap(({ value, invoked, completed }) => {
    const least = increments.filter((one) => one.completed < invoked).length
    const most = increments.filter((one) => one.invoked < completed).length
    const seen = Number(value)
    return seen < least || seen > most ? [`get_counter: ${seen}, not in ${least}..${most}`] : []
  })
}

/** Every note once, at the place it was told; every list is how the final one begins. */
function noteFaults(
  adds: readonly Operation[],
  lists: readonly Operation[],
  final: readonly string[],
): string[] {
  const misplaced = adds.filter(({ note, value }) => final[Number(value) - 1] !== note)
  const strange = lists.filter(({ value }) => {
    const seen = value as readonly string[]
    return seen.some((note, at) => final[at] !== note)
  })
  return [
    ...misplaced.map(({ note }) => `add_note: "${note}" is not where it was added`),
    ...strange.map(
      ({ value }) => `list_notes: ${(value as string[]).length} notes, not a beginning`,
    ),
  ]
}
