/** What one client is told is never another's, however alike their calls are. */
import { describe, expect, it, onTestFinished } from 'vitest'
import { startFleet } from '../support/fleet.ts'
import { createLocalApp } from '../support/local-app.ts'
import { openSession, type Fetch } from '../support/mcp.ts'
import { leaksOf, streamLeaksOf, type Keeper } from './canaries.ts'
import { START } from './topologies.ts'

const CALLS = 100_000
const FEW_CALLS = 1200
const KEEPERS = 20
// A multiple of the kinds of calls, the first of which adds a note.
const ROUNDS_PER_SESSION = 80

describe('sessions whose clients give their calls the same ids and keys', () => {
  it(`are told nothing of each other in ${CALLS} calls to one process`, async () => {
    const { fetch, events } = createLocalApp({ env: { QUICK_REPLY_MS: '2' } })
    expect(await leaksIn(fetch, CALLS)).toEqual([])
    expect(events.filter(({ event }) => event === 'request_failed')).toEqual([])
  })

  it('nor while an instance of a fleet dies', async () => {
    const fleet = await startFleet()
    onTestFinished(async () => void (await fleet.stop()))
    await fleet.allAre('UP')
    let killed = 0
    const leaks = await leaksIn(fleet.fetch, FEW_CALLS, (part) => {
      if (part < 0.3 * (killed + 1) || killed === 2) return
      fleet.signal(`mcp-server-${++killed}`, 'SIGKILL')
    })
    expect(leaks).toEqual([])
    expect(killed).toBe(2)
  })

  it('nor on the edge', async () => {
    const edge = await START.edge()
    onTestFinished(async () => void (await edge.stop()))
    expect(await leaksIn(edge.fetch, FEW_CALLS)).toEqual([])
  })
})

/** Many sessions at once, and new ones now and then: one with very many notes is slow. */
async function leaksIn(
  fetch: Fetch,
  calls: number,
  disturb: (part: number) => void = () => undefined,
): Promise<string[]> {
  const leaks: string[] = []
  const began = performance.now()
  let keepers: Keeper[] = []
  let done = 0
  for (let round = 0; done < calls && leaks.length === 0; round++) {
    if (round % ROUNDS_PER_SESSION === 0) keepers = await openAll(fetch, round)
    leaks.push(...(await leaksOf(fetch, keepers, round)))
    done += KEEPERS
    disturb(done / calls)
  }
  leaks.push(...(await streamLeaksOf(fetch, keepers)))
  const perSecond = Math.round((1000 * done) / (performance.now() - began))
  console.log(`${done} calls, ${perSecond} a second: ${leaks.length} leaks`)
  return leaks
}

function openAll(fetch: Fetch, round: number): Promise<Keeper[]> {
  return Promise.all(
    Array.from({ length: KEEPERS }, async (_, n) => {
      return {
        session: await openSession(fetch),
        secret: `canary-${round}-${n}-${crypto.randomUUID()}`,
      }
    }),
  )
}
