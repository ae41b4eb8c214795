import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { sentBeforeCommit, withoutFence, withoutReplyRecord } from '../../support/broken-stores.ts'
import { simulate, type Broken, type Simulated } from '../../support/simulation.ts'

// Each seed is another story of three instances, one store and seven calls. One that fails is told
// again, step by step, by `SIMULATION_SEED=<seed> npx vitest run test/mcp/session/simulation.test.ts`.
const SEEDS = Number(process.env['SIMULATION_SEEDS'] ?? 2000)
const ONLY = process.env['SIMULATION_SEED']
const STORIES = ONLY === undefined ? Array.from({ length: SEEDS }, (_, n) => n + 1) : [Number(ONLY)]
// How many it takes at most until a planted bug is found.
const SEEDS_TO_FIND = 30

describe('a session whose instances die, stand still and lose their store', () => {
  // The SDK watches over questions with timers of its own, which would outlive their instances.
  beforeAll(() => void vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] }))
  afterAll(() => void vi.useRealTimers())

  it(
    `does what one does that never fails, in ${STORIES.length} stories`,
    { timeout: 600_000 },
    async () => {
      const counts: Record<string, number> = {}
      for (const seed of STORIES) {
        const simulated = await tell(seed)
        if (ONLY !== undefined) console.log(simulated.steps.join('\n'))
        for (const [what, count] of Object.entries(simulated.counts)) {
          counts[what] = (counts[what] ?? 0) + count
        }
        if (simulated.faults.length > 0) expect.fail(storyOf(seed, simulated))
      }
      // That it is trouble at all.
      if (STORIES.length < 1000) return
      const rare = TROUBLE.filter((what) => (counts[what] ?? 0) < STORIES.length / 200)
      expect(rare).toEqual([])
    },
  )

  it('is the same story when it is told again', async () => {
    for (let seed = 1; seed <= 20; seed++) {
      expect((await tell(seed)).steps).toEqual((await tell(seed)).steps)
    }
  })

  it.each<[what: string, broken: Broken, fault: RegExp]>([
    [
      'a holder that was taken over goes on writing',
      { breakStore: withoutFence },
      /an operation twice|2 ends|was told another thing/,
    ],
    [
      'a call that is sent again runs again',
      { breakStore: withoutReplyRecord },
      /done twice|has two streams|paid twice/,
    ],
    [
      'an event is sent before it is in the store',
      { breakInstance: sentBeforeCommit },
      /was sent on|the session has sent no such event/,
    ],
  ])('would not do so if %s', async (_what, broken, fault) => {
    const found: string[] = []
    for (let seed = 1; seed <= SEEDS_TO_FIND; seed++) {
      found.push(...(await tell(seed, broken)).faults.filter((one) => fault.test(one)))
    }
    expect(found).not.toEqual([])
  })
})

const TROUBLE = [
  'dies',
  'pauses',
  'drains',
  'call taken over',
  'commit conflict',
  'commit refused',
  'commit unanswered',
  'commit dies before',
  'commit dies after',
  'entries unanswered',
  'claim unanswered',
  'cancels',
  'answers',
  'leaves',
]

async function tell(seed: number, broken?: Broken): Promise<Simulated> {
  try {
    return await simulate(seed, broken)
  } finally {
    vi.clearAllTimers()
  }
}

function storyOf(seed: number, { faults, steps }: Simulated): string {
  const again = `SIMULATION_SEED=${seed} tells it again`
  return [`Seed ${seed} fails; ${again}:`, ...faults, 'Its steps:', ...steps].join('\n')
}
