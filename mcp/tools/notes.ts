import * as z from 'zod'
import { defineTool } from '../session/tool.ts'
import { notes } from './state.ts'

const MAX_NOTES = 1000
const MAX_NOTE_LENGTH = 8192

export const addNote = defineTool({
  name: 'add_note',
  description: `Adds a note to this session: up to ${MAX_NOTES} of up to ${MAX_NOTE_LENGTH} characters.`,
  input: z.strictObject({
    note: z
      .string()
      .min(1)
      .max(MAX_NOTE_LENGTH)
      .refine(isStorable, 'Holds a character that is none'),
  }),
  async run(call, { note }) {
    const state = await call.update((before) => notes.set(before, append(notes.get(before), note)))
    return { notes_count: notes.get(state).length, instance: call.instance }
  },
})

export const listNotes = defineTool({
  name: 'list_notes',
  description: "Lists this session's notes in the order in which they were added.",
  input: z.strictObject({}),
  annotations: { readOnlyHint: true },
  async run(call) {
    return { notes: notes.get(await call.read()), instance: call.instance }
  },
})

export const clearNotes = defineTool({
  name: 'clear_notes',
  description:
    "Deletes this session's notes once its user has confirmed it. With a client that can't ask its user it fails, and deletes nothing.",
  input: z.strictObject({}),
  annotations: { destructiveHint: true },
  async run(call) {
    const { length: count } = notes.get(await call.read())
    const { action, content } = await call.elicit({
      message: `Delete all ${count} notes of this session?`,
      requestedSchema: {
        type: 'object',
        properties: { confirm: { type: 'boolean', title: 'Delete them', default: false } },
        required: ['confirm'],
      },
    })
    const confirmed = action === 'accept' && content?.['confirm'] === true
    // Notes that came after the question were not what was asked about.
    const clear = (): Promise<unknown> =>
      call.update((before) => notes.set(before, notes.get(before).slice(count)))
    if (confirmed) await clear()
    return { confirmed, notes_deleted: confirmed ? count : 0, instance: call.instance }
  },
})

function append(before: readonly string[], note: string): readonly string[] {
  if (before.length < MAX_NOTES) return [...before, note]
  throw new Error(`Cannot add note: the session has ${MAX_NOTES} already`)
}

/** Half of a surrogate pair can't be stored as UTF-8, and NUL is where some clients stop reading. */
function isStorable(text: string): boolean {
  return text.isWellFormed() && !text.includes('\0')
}
