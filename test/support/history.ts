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
    ...countingFaults(of('increment'), of('get_counter'), final.counter),
    ...countingFaults(of('add_note'), of('list_notes'), final.notes.length),
    ...noteFaults(of('add_note'), of('list_notes'), final.notes),
  ]
}

/**
 * Linearizable, for changes that add one and answer the sum, and reads of it: exact, not a sample.
 * The changes answer 1 to n, each once; the answers leave one order, each change before the reads of
 * its sum; and none had completed before one that comes earlier in it was invoked.
 */
function countingFaults(
  changes: readonly Operation[],
  reads: readonly Operation[],
  final: number,
): string[] {
  const changesTo = Map.groupBy(changes, sumOf)
  const readsOf = Map.groupBy(reads, sumOf)
  const sums = Array.from({ length: changes.length + 1 }, (_, sum) => sum)
  const [, ...answers] = sums
  const faults = answers
    .map((sum) => ({ sum, times: changesTo.get(sum)?.length ?? 0 }))
    .filter(({ times }) => times !== 1)
    .map(({ sum, times }) => `${sum} of ${changes.length}: answered ${times} times`)
  const strange = reads.filter((read) => !sums.includes(sumOf(read)))
  faults.push(...strange.map((read) => `${read.kind}: ${sumOf(read)} of ${changes.length}`))
  if (final !== changes.length)
    faults.push(`${changes.length} changes answered, ${final} in effect`)
  let begun = -Infinity
  for (const group of sums.flatMap((sum) => [changesTo.get(sum) ?? [], readsOf.get(sum) ?? []])) {
    const late = group.filter(({ completed }) => completed < begun)
    faults.push(...late.map((one) => `${one.kind}: ${sumOf(one)} before an earlier one began`))
    begun = Math.max(begun, ...group.map(({ invoked }) => invoked))
  }
  return faults
}

function sumOf({ value }: Operation): number {
  return typeof value === 'number' ? value : value.length
}

/** Every note at the place it was told; every list is how the final one begins. */
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
    ...strange.map((list) => `list_notes: ${sumOf(list)} notes, not a beginning`),
  ]
}
