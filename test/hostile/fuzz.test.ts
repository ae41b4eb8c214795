/** What the kernel's own test does by the thousands, through all that is in front of it. */
import * as fc from 'fast-check'
import { afterAll, describe, expect, it } from 'vitest'
import { faultsIn, isFailure, type Answered } from './fuzz-answers.ts'
import { knownOf } from './fuzz-known.ts'
import { fuzzCase, requestOf, type FuzzRequest, type Known } from './fuzz.ts'
import { bytesOf, exchange } from './raw.ts'
import { setScene, snapshotOf, summaryOf, type Scene } from './snapshot.ts'
import { START } from './topologies.ts'

const CASES = Number(process.env['FUZZ_CASES'] ?? 300)
const SEED = Number(process.env['FUZZ_SEED'] ?? 20_261_121)
const TOO_SLOW_MS = 5000
// They change their session later on.
const LATE = /analyze_data|watch_counter/

describe.each(['fleet', 'edge'] as const)('requests that are not in order: %s', (name) => {
  let scene: Scene
  afterAll(() => scene.stop())

  it(`serves or refuses ${CASES} of them, and does no more`, async () => {
    scene = await setScene(await START[name]({ STOP_SECONDS: '0' }))
    const state = { known: await knownOf(scene.fetch), statuses: {} as Record<number, number> }
    const before = await snapshotOf(scene)
    await fc.assert(
      fc.asyncProperty(fuzzCase, async (one) => {
        const request = await requestOf(one, state.known)
        fc.pre(
          request.method !== 'HEAD' &&
            hasHost(request) &&
            !LATE.test(new TextDecoder().decode(request.body)),
        )
        const { status, faults } = await play(scene, state.known, request)
        state.statuses[status] = (state.statuses[status] ?? 0) + 1
        if (request.method === 'DELETE' && status === 200) state.known = await knownOf(scene.fetch)
        expect(faults).toEqual([])
      }),
      { numRuns: CASES, seed: SEED },
    )
    console.log(`${CASES} requests of seed ${SEED}:`, state.statuses)
    const { canary, pids } = await snapshotOf(scene)
    expect({ canary, pids }).toEqual({ canary: before.canary, pids: before.pids })
  })
})

/** One request, and whether what its session remembers is as before if it should be. */
async function play(
  scene: Scene,
  { own }: Known,
  request: FuzzRequest,
): Promise<{ status: number; faults: string[] }> {
  const before = JSON.stringify(await summaryOf(scene, own))
  const began = performance.now()
  const answer = await send(scene, request)
  const ms = performance.now() - began
  const faults = faultsIn(answer, request.method)
  if (ms > TOO_SLOW_MS) faults.push(`takes ${Math.round(ms)} ms`)
  const isDone = answer.status >= 200 && answer.status < 300 && !isFailure(answer)
  if (!isDone && JSON.stringify(await summaryOf(scene, own)) !== before) {
    faults.push('was refused, and has changed its session')
  }
  return { status: answer.status, faults }
}

/** Of a Host that can be none whoever reads HTTP says so, in fewer words. */
function hasHost({ headers }: FuzzRequest): boolean {
  return /^[a-z0-9.-]+(:[0-9]{1,4})?$/.test(headers['host'] ?? '')
}

/** As bytes: nothing on this side puts right what is wrong. */
async function send({ port }: Scene, { method, headers, body }: FuzzRequest): Promise<Answered> {
  return exchange(port, bytesOf({ method, headers, ...(body && { body }) }))
}
