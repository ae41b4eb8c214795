import { runInDurableObject } from 'cloudflare:test'
import { expect, it } from 'vitest'
import { until } from '../support/mcp.ts'
import { askTool, openHandle, runTool } from '../support/stateless.ts'
import { edgeFetch as fetch, objectOf } from './support.ts'

it('a client that hangs up leaves no attempt open, for which records would have to be kept', async () => {
  const session = await openHandle(fetch)
  const client = new AbortController()
  const request = askTool('watch_counter', { session, duration_seconds: 30 })
  const call = fetch(new Request(request, { signal: client.signal })).catch(() => undefined)
  await runTool(fetch, 'get_counter', { session })
  client.abort()
  await call
  const other = await openHandle(fetch)
  const raise = async (): Promise<number> => {
    for (let count = 0; count < 5; count++)
      await runTool(fetch, 'increment_counter', { session: other })
    return repliesOf(other)
  }
  // The one of the last call, which nobody has settled yet.
  await until(raise, (count) => count === 1)
  expect(await repliesOf(other)).toBe(1)
})

function repliesOf(session: string): Promise<number> {
  return runInDurableObject(objectOf(session), (_object, { storage }) => {
    const row = JSON.parse(String(storage.kv.get('session'))) as { replies: unknown[] }
    return row.replies.length
  })
}
