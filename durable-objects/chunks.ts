import * as z from 'zod'
import type { StreamId } from '../mcp/session/ids.ts'
import { entry } from '../mcp/session/record.ts'
import type { Append, Entry, StreamEntries } from '../mcp/session/store.ts'

const CHUNK_ENTRIES = 64
const CHUNK_CHARS = 256 * 1024

export const chunkPrefix = (stream: StreamId) => `stream/${stream}/`
export const chunkKey = (stream: StreamId, first: number) =>
  `${chunkPrefix(stream)}${String(first).padStart(10, '0')}`

const packedChunk = z.object({
  writtenAt: z.number(),
  entries: z.array(entry),
})

/** Some of a stream's entries, which are one row. */
export interface Chunk {
  /** The place of its first entry. */
  readonly first: number
  readonly entries: readonly Entry[]
  readonly chars: number
}

/** A chunk as its row has it. */
interface StoredChunk extends Chunk {
  readonly stream: StreamId
  readonly writtenAt: number
}

export const EMPTY: Chunk = { first: 1, entries: [], chars: 0 }

export function nextPlace({ first, entries }: Chunk): number {
  return first + entries.length
}

/** The chunk that holds `entries`: the stream's last one, or a new one if that is full. */
export function grow(tail: Chunk, { entries }: Append): Chunk {
  const added = JSON.stringify(entries).length
  const full = tail.entries.length >= CHUNK_ENTRIES || tail.chars + added > CHUNK_CHARS
  const base = full ? { first: nextPlace(tail), entries: [], chars: 0 } : tail
  return { first: base.first, entries: [...base.entries, ...entries], chars: base.chars + added }
}

export function isLast({ entries }: Chunk): boolean {
  return entries.at(-1)?.kind === 'end'
}

/** What `chunks`, which are in order, hold behind place `after`. */
export function behind(chunks: readonly Chunk[], after: number): StreamEntries {
  const [{ first } = EMPTY] = chunks
  const entries = chunks.flatMap((chunk) => chunk.entries)
  const skipped = Math.min(Math.max(after + 1 - first, 0), entries.length)
  return { at: first + skipped, entries: entries.slice(skipped) }
}

export function packChunk({ entries }: Chunk, writtenAt: number): string {
  return JSON.stringify({ writtenAt, entries })
}

export function unpackChunk([key, text]: [string, unknown]): StoredChunk {
  const [, stream, first] = key.split('/')
  const { entries, writtenAt } = packedChunk.parse(JSON.parse(String(text)))
  return {
    stream: stream as StreamId,
    first: Number(first),
    entries,
    writtenAt,
    chars: String(text).length,
  }
}
