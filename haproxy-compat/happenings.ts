import type { Happening } from '../mcp/operator.ts'
import type { News } from '../mcp/session/peers.ts'
import type { SessionId } from '../mcp/session/ids.ts'
import type { Listen } from './overhear.ts'

// Who is further behind misses what came first.
const MOST_WAITING = 100

/** What happens in a session from now on, to its end or until `signal`. */
export function happeningsOf(
  listen: Listen,
  id: SessionId,
  now: () => number,
  signal: AbortSignal,
): AsyncIterable<Happening> {
  const waiting: Happening[] = []
  let come = Promise.withResolvers<void>()
  const deafen = listen(id, (news) => {
    if (news.kind === 'missed') return
    waiting.push(happening(news, now()))
    if (waiting.length > MOST_WAITING) waiting.shift()
    come.resolve()
  })
  signal.addEventListener('abort', () => {
    deafen()
    come.resolve()
  })

  async function* follow(): AsyncGenerator<Happening> {
    for (; !signal.aborted; await come.promise) {
      come = Promise.withResolvers<void>()
      for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
        yield next
        if (next.kind === 'ended') return
      }
    }
  }
  return follow()
}

function happening(news: Exclude<News, { kind: 'missed' }>, at: number): Happening {
  return { at, ...news }
}
