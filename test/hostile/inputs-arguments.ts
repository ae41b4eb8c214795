import {
  callTool,
  endSession,
  openSession,
  readEvents,
  rpc,
  send,
  toolCall,
} from '../support/mcp.ts'
import { INCREMENT, message } from './inputs.ts'
import type { Answer, InputRow, StoryRow } from './inputs.ts'

const REFUSED: Answer = { status: 200, isError: true }
const MAX_NOTES = 1000
const AT_ONCE = 20

// That the counter stops at 2^53 - 1 can't be seen from here: nobody counts that far by ones.
export const ARGUMENTS: readonly InputRow[] = [
  ...['-1', '0', '1.5', '"1"', '1e400', '9007199254740993', 'null', '1'].map((by) => ({
    row: '72',
    // There is no such argument, whatever its value.
    what: `increment_counter by ${by}`,
    send: message(INCREMENT.replace('{}', `{"by":${by}}`)),
    answer: REFUSED,
  })),
  {
    row: '72b',
    what: 'a number that JSON does not know',
    send: message(INCREMENT.replace('{}', '{"by":NaN}')),
    answer: { status: 400, code: -32700 },
  },
  ...Object.entries({
    'an empty note': '',
    'half a surrogate pair': '\ud800',
    NUL: 'a\0b',
    'a note of 8193 characters': 'x'.repeat(8193),
    'a note that is a number': 7,
    'a note that is a list': ['x'],
  }).map(([what, note]) => ({
    row: '72c',
    what,
    send: message(toolCall('add_note', { note })),
    answer: REFUSED,
  })),
  {
    row: '72d',
    what: 'a note of 10 MB',
    send: message(toolCall('add_note', { note: 'x'.repeat(10_000_000) })),
    answer: { status: 413, code: -32000 },
  },
  ...[
    { duration_seconds: 1.5 },
    { duration_seconds: '1' },
    { duration_seconds: 1, interval_seconds: 0 },
    {},
  ].map((args) => ({
    row: '72e',
    what: `watch_counter with ${JSON.stringify(args)}`,
    send: message(toolCall('watch_counter', args)),
    answer: REFUSED,
  })),
  ...[1_000_000, 10_001, 1.5, '2'].map((items) => ({
    row: '72f',
    what: `analyze_data of ${JSON.stringify(items)} items`,
    send: message(toolCall('analyze_data', { num_items: items })),
    answer: REFUSED,
  })),
]

export const ARGUMENT_STORIES: readonly StoryRow[] = [
  {
    row: '72g',
    what: `one note more than ${MAX_NOTES}`,
    plays: async ({ fetch }) => {
      const session = await openSession(fetch)
      const add = () => rpc(fetch, session, toolCall('add_note', { note: 'n' }))
      for (let count = 0; count < MAX_NOTES; count += AT_ONCE) {
        await Promise.all(Array.from({ length: AT_ONCE }, add))
      }
      const refused = (await add()).result?.isError
      const { notes } = await callTool(fetch, session, 'list_notes')
      return { refused, notes: (notes as string[]).length }
    },
    gives: { refused: true, notes: MAX_NOTES },
    opens: true,
  },
  {
    row: '72h',
    what: 'a note that looks like a frame of a stream, told by a stream',
    plays: async ({ fetch }) => {
      const note = '\n\ndata: x\r\nid: 1\n\n\u2028event: y'
      const session = await openSession(fetch)
      await callTool(fetch, session, 'add_note', { note })
      return (await callTool(fetch, session, 'list_notes'))['notes']
    },
    gives: ['\n\ndata: x\r\nid: 1\n\n\u2028event: y'],
    opens: true,
  },
  {
    row: '72i',
    what: 'a watch for thirty years, which is one for half a minute',
    plays: async ({ fetch }) => {
      const session = await openSession(fetch)
      const call = toolCall('watch_counter', { duration_seconds: 1e9 })
      const stream = readEvents(await send(fetch, session, call))
      await stream.next()
      const { value } = await stream.next()
      await endSession(fetch, session)
      await stream.return(undefined)
      return /Watching counter for (\d+)s/.exec(value?.data ?? '')?.[1]
    },
    gives: '30',
    opens: true,
  },
  {
    row: '72j',
    what: 'a watch for less than no time, which ends at once',
    plays: async ({ fetch }) => {
      const session = await openSession(fetch)
      return (await callTool(fetch, session, 'watch_counter', { duration_seconds: -1 }))['changes']
    },
    gives: [],
    opens: true,
  },
]
