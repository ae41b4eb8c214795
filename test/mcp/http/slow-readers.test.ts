import { describe, expect, it } from 'vitest'
import { systemClock, type Clock } from '../../../mcp/session/clock.ts'
import { createLocalApp } from '../../support/local-app.ts'
import { BASE, callTool, openSession, readEvents, send, type Fetch } from '../../support/mcp.ts'

const KEEP_ALIVE_MS = 15_000

describe('a stream that nobody reads', () => {
  it('is cut when too much is waiting, and can be resumed', async () => {
    const app = createLocalApp({ env: { MAX_BUFFERED_BYTES: '2000' } })
    const session = await openSubscribed(app)
    const response = await app.fetch(follow(session))
    const reader = response.body?.getReader()
    const primed = new TextDecoder().decode((await reader?.read())?.value)
    for (let at = 0; at < 20; at++) await callTool(app.fetch, session, 'increment_counter')
    await expect(readToEnd(reader)).rejects.toThrow('The client reads too slowly')

    const [, lastEventId = ''] = /^id: (.+)$/m.exec(primed) ?? []
    const rest = readEvents(await app.fetch(follow(session, lastEventId)))
    for (let at = 0; at < 20; at++) await rest.next()
    expect((await rest.next()).value?.data).toContain('notifications/resources/updated')
    await rest.return(undefined)
  })

  it('is cut when nothing was read of it between two comments', async () => {
    const { clock, tick } = createTicking()
    const app = createLocalApp({ clock })
    const reader = (await app.fetch(follow(await openSession(app.fetch)))).body?.getReader()
    tick()
    tick()
    await expect(readToEnd(reader)).rejects.toThrow('The client reads too slowly')
  })

  it('is not, if it is read', async () => {
    const { clock, tick } = createTicking()
    const app = createLocalApp({ clock })
    const reader = (await app.fetch(follow(await openSession(app.fetch)))).body?.getReader()
    await reader?.read()
    for (let at = 0; at < 3; at++) {
      tick()
      const { value } = (await reader?.read()) ?? {}
      expect(new TextDecoder().decode(value)).toBe(': keep-alive\n\n')
    }
    await reader?.cancel()
  })
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
