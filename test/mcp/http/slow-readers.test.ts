import { describe, expect, it } from 'vitest'
import * as z from 'zod'
import { systemClock, type Clock } from '../../../mcp/session/clock.ts'
import { defineTool } from '../../../mcp/session/tool.ts'
import { createLocalApp } from '../../support/local-app.ts'
import {
  BASE,
  callTool,
  openSession,
  readEvents,
  send,
  until,
  type Fetch,
} from '../../support/mcp.ts'
import { heard } from '../../support/rounds.ts'
import { ask, askTool, openHandle, runTool } from '../../support/stateless.ts'

const KEEP_ALIVE_MS = 15_000

const CHANGES = 20
// Room for a few of them.
const BOUNDED = { MAX_BUFFERED_BYTES: '1000' }

describe('a stream that is read late', () => {
  it('has kept all that was said, and no more of it in memory than it may', async () => {
    const app = createLocalApp({ env: BOUNDED })
    const session = await openSubscribed(app)
    const response = await app.fetch(follow(session))
    for (let at = 0; at < CHANGES; at++) await callTool(app.fetch, session, 'increment_counter')
    const events = readEvents(response)
    expect((await events.next()).value?.data).toBe('')
    for (let at = 0; at < CHANGES; at++) {
      expect((await events.next()).value?.data).toContain('notifications/resources/updated')
    }
    await events.return(undefined)
  })

  it('is cut when it is full, and nothing is read from one comment to the next', async () => {
    const { clock, tick } = createTicking()
    const app = createLocalApp({ clock, env: BOUNDED })
    const session = await openSubscribed(app)
    const reader = (await app.fetch(follow(session))).body?.getReader()
    const primed = new TextDecoder().decode((await reader?.read())?.value)
    for (let at = 0; at < CHANGES; at++) await callTool(app.fetch, session, 'increment_counter')
    tick()
    tick()
    await expect(readToEnd(reader)).rejects.toThrow('The client does not read')

    const [, lastEventId = ''] = /^id: (.+)$/m.exec(primed) ?? []
    const rest = readEvents(await app.fetch(follow(session, lastEventId)))
    for (let at = 0; at < CHANGES; at++) await rest.next()
    expect((await rest.next()).value?.data).toContain('notifications/resources/updated')
    await rest.return(undefined)
  })

  it('is not cut as long as some of it is read', async () => {
    const { clock, tick } = createTicking()
    const app = createLocalApp({ clock, env: BOUNDED })
    const session = await openSubscribed(app)
    const reader = (await app.fetch(follow(session))).body?.getReader()
    await reader?.read()
    for (let at = 0; at < CHANGES; at++) await callTool(app.fetch, session, 'increment_counter')
    for (let at = 0; at < CHANGES; at++) {
      tick()
      expect((await reader?.read())?.done).toBe(false)
    }
    await reader?.cancel()
  })

  it('is not cut when there is little to read', async () => {
    const { clock, tick } = createTicking()
    const app = createLocalApp({ clock })
    const reader = (await app.fetch(follow(await openSession(app.fetch)))).body?.getReader()
    for (let at = 0; at < 5; at++) tick()
    const first = new TextDecoder().decode((await reader?.read())?.value)
    expect(first).toMatch(/^id: .*\nretry: 500\ndata:\n\n$/)
    expect(new TextDecoder().decode((await reader?.read())?.value)).toBe(': keep-alive\n\n')
    await reader?.cancel()
  })
})

describe('the answer to a request without a session', () => {
  const LINES = Array.from({ length: 100 }, (_, at) => `line ${at}`)
  const tellOf = (told: (signal: AbortSignal) => void) =>
    defineTool({
      name: 'tell',
      description: 'Says a lot at once',
      input: z.strictObject({}),
      stateless: true,
      async run(call) {
        told(call.signal)
        for (const line of LINES) await call.log('info', line)
        return { told: LINES.length }
      },
    })
  const request = () => askTool('tell', {}, { level: 'info' })

  it('waits for its reader, who gets all of it', async () => {
    const pack = { tools: [tellOf(() => undefined)] }
    const { fetch } = createLocalApp({ pack, env: BOUNDED })
    const { said, reply } = await heard(await fetch(request()))
    expect(said).toEqual(LINES)
    expect(reply.result?.structuredContent).toEqual({ told: LINES.length })
  })

  it('is cut, and its call cancelled, when nothing is read from one comment to the next', async () => {
    const { clock, tick } = createTicking()
    let signal: AbortSignal | undefined
    const pack = { tools: [tellOf((its) => (signal = its))] }
    const { fetch } = createLocalApp({ pack, env: BOUNDED, clock })
    const reader = (await fetch(request())).body?.getReader()
    await reader?.read()
    const ticked = async (): Promise<AbortSignal | undefined> => {
      tick()
      return signal
    }
    await until(ticked, (its) => its?.aborted === true)
    const error: unknown = await readToEnd(reader).catch((reason: unknown) => reason)
    // Node's server prints all of it.
    expect((error as Error).stack).toBe('Error: The client does not read')
  })
})

it('who listens without a session and does not read is cut when there is too much for them', async () => {
  const { fetch } = createLocalApp({ env: BOUNDED })
  const session = await openHandle(fetch)
  const resourceSubscriptions = [`resource://session/${session}/summary`]
  const request = ask('subscriptions/listen', { notifications: { resourceSubscriptions } })
  const reader = (await fetch(request)).body?.getReader()
  await reader?.read()
  for (let at = 0; at < CHANGES; at++) await runTool(fetch, 'increment_counter', { session })
  await expect(readToEnd(reader)).rejects.toThrow('The client does not read')
})

/** A clock whose keep-alive timers fire when they are told to. */
function createTicking(): { clock: Clock; tick: () => void } {
  let due: (() => void)[] = []
  const timer: Clock['timer'] = (ms, fire) => {
    if (ms !== KEEP_ALIVE_MS) return systemClock.timer(ms, fire)
    due.push(fire)
    return () => (due = due.filter((one) => one !== fire))
  }
  const tick = (): void => {
    for (const fire of due.splice(0)) fire()
  }
  return { clock: { ...systemClock, timer }, tick }
}

/** Told of each change of its state. */
async function openSubscribed({ fetch }: { fetch: Fetch }): Promise<string> {
  const session = await openSession(fetch)
  const params = { uri: `resource://session/${session}/summary` }
  await send(fetch, session, { jsonrpc: '2.0', id: 1, method: 'resources/subscribe', params })
  return session
}

function follow(session: string, lastEventId = ''): Request {
  const headers = {
    host: 'localhost',
    accept: 'text/event-stream',
    'mcp-session-id': session,
    ...(lastEventId !== '' && { 'last-event-id': lastEventId }),
  }
  return new Request(`${BASE}/mcp`, { headers })
}

type Reader = Pick<ReadableStreamDefaultReader<Uint8Array>, 'read'> | undefined

async function readToEnd(reader: Reader): Promise<void> {
  while ((await reader?.read())?.done === false);
}
