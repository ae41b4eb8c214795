import { post, readEvents, toolCall, type Fetch } from '../support/mcp.ts'
import { askTool } from '../support/stateless.ts'

/** A session, and what nobody else may ever be told. */
export interface Keeper {
  readonly session: string
  readonly secret: string
}

/**
 * One call of each of `keepers` at once, all with the same JSON-RPC id and idempotency key. Answers
 * what one of them was told of another.
 */
export async function leaksOf(
  fetch: Fetch,
  keepers: readonly Keeper[],
  call: number,
): Promise<string[]> {
  const told = await Promise.all(
    keepers.map(async (keeper) => {
      const text = await toldBy(await fetch(requestOf(keeper, call)))
      return leaksIn(text, keeper, keepers, call)
    }),
  )
  return told.flat()
}

const CALLS = 8

function requestOf({ session, secret }: Keeper, call: number): Request {
  const key = `key-${call}`
  const headers = { 'mcp-session-id': session, 'idempotency-key': key }
  const inSession = (name: string, args: object = {}): Request =>
    post(JSON.stringify(toolCall(name, args, call % CALLS)), headers)
  const more = { id: call % CALLS, idempotencyKey: key }
  switch (call % CALLS) {
    case 0:
      return inSession('add_note', { note: `${secret} says ${call}` })
    case 1:
      return inSession('list_notes')
    case 2:
      return askTool('list_notes', { session }, more)
    case 3:
      return askTool('increment_counter', { session }, more)
    case 4:
      return inSession('increment_counter')
    case 5:
      return summaryRequest(session, call % CALLS)
    case 6:
      return inSession(`no_tool_of_${secret}`)
    default:
      return inSession('get_counter')
  }
}

function summaryRequest(session: string, id: number): Request {
  const params = { uri: `resource://session/${session}/summary` }
  const message = { jsonrpc: '2.0', id, method: 'resources/read', params }
  return post(JSON.stringify(message), { 'mcp-session-id': session })
}

/** All of an answer: its head, and its body or events. */
async function toldBy(response: Response): Promise<string> {
  const head = [...response.headers].join('\n')
  return `${response.status}\n${head}\n${await response.text()}`
}

/** Whose secrets and ids are in a text that is for one alone, and what is missing of its own. */
function leaksIn(
  text: string,
  { session, secret }: Keeper,
  keepers: readonly Keeper[],
  call: number,
): string[] {
  const foreign = keepers.filter((one) => one.session !== session)
  const found = foreign.filter((one) => text.includes(one.secret) || text.includes(one.session))
  const leaks = found.map((one) => `${secret} was told of ${one.secret} by call ${call}: ${text}`)
  const reads = [1, 2, 5].includes(call % CALLS)
  const missing = reads && !text.includes(secret) ? [`${secret} misses its notes: ${text}`] : []
  return [...leaks, ...missing]
}

/** Long calls of all at once, under one id and key; and what each hears, with what comes again. */
export async function streamLeaksOf(fetch: Fetch, keepers: readonly Keeper[]): Promise<string[]> {
  const told = await Promise.all(
    keepers.map(async (keeper) => {
      const { session } = keeper
      const headers = { 'mcp-session-id': session, 'idempotency-key': 'watch' }
      const message = toolCall('watch_counter', { duration_seconds: 1 }, 1)
      const response = await fetch(post(JSON.stringify(message), headers))
      let text = [...response.headers].join('\n')
      let first = ''
      for await (const { id, data } of readEvents(response)) {
        first ||= id
        text += `${id} ${data}\n`
      }
      const again = new Request('http://localhost/mcp', {
        headers: { accept: 'text/event-stream', 'mcp-session-id': session, 'last-event-id': first },
      })
      return { keeper, text: text + (await toldBy(await fetch(again))), first }
    }),
  )
  const events = told.map(({ first }) => first.split('.')[0] ?? '')
  return told.flatMap(({ keeper, text }, at) => {
    const strange = events.filter((stream, of) => of !== at && text.includes(stream))
    const leaks = leaksIn(text, keeper, keepers, CALLS - 1)
    return [...leaks, ...strange.map((stream) => `${keeper.secret} was told of stream ${stream}`)]
  })
}
