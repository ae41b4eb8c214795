import { describe, expect, it } from 'vitest'
import { faultsOf, type Operation } from '../support/history.ts'

type Span = readonly [invoked: number, completed: number]

function increment([invoked, completed]: Span, value: number): Operation {
  return { kind: 'increment', invoked, completed, value }
}

function getCounter([invoked, completed]: Span, value: number): Operation {
  return { kind: 'get_counter', invoked, completed, value }
}

function addNote([invoked, completed]: Span, value: number, note: string): Operation {
  return { kind: 'add_note', invoked, completed, value, note }
}

function listNotes([invoked, completed]: Span, value: readonly string[]): Operation {
  return { kind: 'list_notes', invoked, completed, value }
}

const NO_NOTES = { notes: [] }

describe('a history without fault', () => {
  it('is empty, or one call after the other', () => {
    expect(faultsOf([], { counter: 0, notes: [] })).toEqual([])
    const operations = [
      getCounter([0, 1], 0),
      listNotes([1, 2], []),
      increment([2, 3], 1),
      addNote([4, 5], 1, 'a'),
      getCounter([6, 7], 1),
      increment([8, 9], 2),
      addNote([10, 11], 2, 'a'),
      listNotes([12, 13], ['a', 'a']),
      getCounter([14, 15], 2),
    ]
    expect(faultsOf(operations, { counter: 2, notes: ['a', 'a'] })).toEqual([])
  })

  it('may have calls at the same time take effect in any order', () => {
    const operations = [increment([0, 10], 2), increment([1, 9], 1), increment([2, 11], 3)]
    const reads = [getCounter([3, 8], 3), getCounter([3, 8], 0)]
    expect(faultsOf([...operations, ...reads], { counter: 3, ...NO_NOTES })).toEqual([])
    const notes = [addNote([0, 5], 2, 'b'), addNote([0, 5], 1, 'a'), listNotes([1, 4], ['a'])]
    expect(faultsOf(notes, { counter: 0, notes: ['a', 'b'] })).toEqual([])
  })
})

describe('the checker finds', () => {
  const three = [increment([0, 1], 1), increment([2, 3], 2), increment([4, 5], 3)]

  it('a lost effect', () => {
    // The last one is gone, or two were made of the same version.
    expect(faultsOf(three, { counter: 2, ...NO_NOTES })).toEqual([
      '3 changes answered, 2 in effect',
    ])
    const same = [increment([0, 1], 1), increment([2, 3], 1)]
    expect(faultsOf(same, { counter: 1, ...NO_NOTES })).toEqual([
      '1 of 2: answered 2 times',
      '2 of 2: answered 0 times',
      '2 changes answered, 1 in effect',
    ])
    const notes = [addNote([0, 1], 1, 'a'), addNote([2, 3], 2, 'b')]
    expect(faultsOf(notes, { counter: 0, notes: ['a'] })).toEqual([
      '2 changes answered, 1 in effect',
      'add_note: "b" is not where it was added',
    ])
  })

  it('a doubled effect', () => {
    expect(faultsOf(three, { counter: 4, ...NO_NOTES })).toEqual([
      '3 changes answered, 4 in effect',
    ])
    const skipping = [increment([0, 1], 1), increment([2, 3], 3)]
    expect(faultsOf(skipping, { counter: 3, ...NO_NOTES })).toEqual([
      '2 of 2: answered 0 times',
      '2 changes answered, 3 in effect',
    ])
    const notes = [addNote([0, 1], 1, 'a')]
    expect(faultsOf(notes, { counter: 0, notes: ['a', 'a'] })).toEqual([
      '1 changes answered, 2 in effect',
    ])
  })

  it('answers out of order, be the sum right and the calls far apart', () => {
    const swapped = [increment([0, 1], 2), increment([2, 3], 1), increment([4, 5], 3)]
    expect(faultsOf(swapped, { counter: 3, ...NO_NOTES })).toEqual([
      'increment: 2 before an earlier one began',
    ])
    const late = [increment([8, 9], 1), increment([0, 9], 2), increment([0, 7], 3)]
    expect(faultsOf(late, { counter: 3, ...NO_NOTES })).toEqual([
      'increment: 3 before an earlier one began',
    ])
    const notes = [addNote([0, 1], 2, 'b'), addNote([2, 3], 1, 'a')]
    expect(faultsOf(notes, { counter: 0, notes: ['a', 'b'] })).toEqual([
      'add_note: 2 before an earlier one began',
    ])
  })

  it.each([
    ['that misses what was answered', [...three, getCounter([6, 7], 2)], 'increment: 3'],
    [
      'that misses what was answered while the change before it had no answer yet',
      [increment([0, 9], 1), increment([1, 2], 2), getCounter([3, 4], 1)],
      'increment: 2',
    ],
    [
      'that is behind another one, while the change has no answer yet',
      [increment([0, 9], 1), getCounter([1, 2], 1), getCounter([3, 4], 0)],
      'get_counter: 1',
    ],
  ])('a stale read, %s', (_, operations, late) => {
    const counter = operations.filter(({ kind }) => kind === 'increment').length
    expect(faultsOf(operations, { counter, ...NO_NOTES })).toEqual([
      `${late} before an earlier one began`,
    ])
  })

  it('a read of what had not begun, or never did', () => {
    const early = [getCounter([-2, -1], 1), ...three]
    expect(faultsOf(early, { counter: 3, ...NO_NOTES })).toEqual([
      'get_counter: 1 before an earlier one began',
    ])
    expect(faultsOf([...three, getCounter([6, 7], 4)], { counter: 3, ...NO_NOTES })).toEqual([
      'get_counter: 4 of 3',
    ])
    const notes = [addNote([2, 3], 1, 'a'), listNotes([0, 1], ['a'])]
    expect(faultsOf(notes, { counter: 0, notes: ['a'] })).toEqual([
      'list_notes: 1 before an earlier one began',
    ])
  })

  it('a stale list of notes', () => {
    const notes = [addNote([0, 1], 1, 'a'), listNotes([2, 3], [])]
    expect(faultsOf(notes, { counter: 0, notes: ['a'] })).toEqual([
      'add_note: 1 before an earlier one began',
    ])
  })

  it('a misplaced note', () => {
    const adds = [addNote([0, 1], 1, 'a'), addNote([2, 3], 2, 'b')]
    expect(faultsOf(adds, { counter: 0, notes: ['b', 'a'] })).toEqual([
      'add_note: "a" is not where it was added',
      'add_note: "b" is not where it was added',
    ])
    const other = [...adds, listNotes([4, 5], ['b', 'a'])]
    expect(faultsOf(other, { counter: 0, notes: ['a', 'b'] })).toEqual([
      'list_notes: 2 notes, not a beginning',
    ])
  })
})
