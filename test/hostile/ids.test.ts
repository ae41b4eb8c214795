/** Session ids: that none can be guessed, and that a changed one costs nothing. */
import { afterAll, describe, expect, it } from 'vitest'
import { createSessionIds } from '../../haproxy-compat/session-ids.ts'
import { BASE, initialize, openSession, post, toolCall, type Fetch } from '../support/mcp.ts'
import { ask, askTool } from '../support/stateless.ts'
import { START, type Topology } from './topologies.ts'

const MINTED = 100_000
const RANDOM_BITS = 128
const SIGMAS = 6
const CHANGED_IDS = 2
const ALPHABET = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'
const SECRET = 'a secret of sixteen'

describe(`${MINTED} session ids`, () => {
  const minter = createSessionIds([SECRET])
  const isMinted = (id: string): boolean => minter.isMinted(id)
  const ids = Array.from({ length: MINTED }, () => minter.mint())
  const bytes = ids.map((id) => Buffer.from(id, 'base64url'))

  it('are all different, in their random part and in their tag', () => {
    const parts = [
      ids,
      bytes.map((id) => id.toString('hex', 1, 17)),
      bytes.map((id) => id.toString('hex', 17)),
    ]
    expect(parts.map((part) => new Set<string>(part).size)).toEqual([MINTED, MINTED, MINTED])
  })

  it(`have ${RANDOM_BITS} random bits, each of them set in half of the ids`, () => {
    const lopsided = bitsOf(bytes).filter((set) => isTooFar(set, MINTED))
    expect(lopsided).toEqual([])
  })

  it('have bits that do not go together', () => {
    const samples = bytes.slice(0, 20_000)
    const together: string[] = []
    for (let a = 0; a < RANDOM_BITS; a++) {
      // With each of the next few, and with the same one of the id before.
      for (const distance of [1, 2, 7, 8, 64]) {
        const same = samples.filter(
          (id) => bitAt(id, a) === bitAt(id, (a + distance) % RANDOM_BITS),
        )
        if (isTooFar(same.length, samples.length)) together.push(`${a} and ${a + distance}`)
      }
      const repeated = samples.filter((id, n) => bitAt(id, a) === bitAt(samples[n - 1] ?? id, a))
      if (isTooFar(repeated.length, samples.length)) together.push(`${a} and the one before`)
    }
    expect(together).toEqual([])
  })

  it('are known by those who have the secret, and by nobody else', () => {
    const [id = ''] = ids
    const rotated = createSessionIds(['another one of sixteen', SECRET])
    const foreign = createSessionIds(['another one of sixteen'])
    expect([isMinted(id), rotated.isMinted(id), foreign.isMinted(id)]).toEqual([true, true, false])
  })

  it('are refused with any one bit changed, and in any other spelling', () => {
    const taken = ids.slice(0, 100).flatMap((id) => spellingsOf(id).filter(isMinted))
    expect(taken).toEqual([])
  })
})

describe.each(['fleet', 'edge'] as const)('a session id that was changed: %s', (name) => {
  let topology: Topology
  afterAll(() => topology.stop())

  it('is refused, and nothing is asked for it or made', { timeout: 120_000 }, async () => {
    topology = await START[name]()
    const { fetch } = topology
    const own = await Promise.all(Array.from({ length: CHANGED_IDS }, () => openSession(fetch)))
    const changed = own.flatMap(name === 'fleet' ? spellingsOf : hexSpellingsOf)
    const asked = await topology.asked(async () => {
      expect(await inTurn(changed, (id) => isServed(fetch, id))).toEqual([])
    })
    console.log(`${changed.length} changed ids, each sent in 4 requests`)
    expect(asked).toEqual([])
  })

  it('is no session where it is an argument, and nothing is asked for it or made', async () => {
    const { fetch } = topology
    const own = await openSession(fetch)
    const changed = (name === 'fleet' ? spellingsOf : hexSpellingsOf)(own)
    const asked = await topology.asked(async () => {
      expect(await inTurn(changed, (id) => isServedByName(fetch, id))).toEqual([])
    })
    expect(asked).toEqual([])
  })
})

/** Those of which `act` tells something good; as many at once as there are connections to spare. */
async function inTurn(ids: readonly string[], act: (id: string) => Promise<boolean>) {
  const waiting = [...ids]
  const taken: string[] = []
  const work = async (): Promise<void> => {
    for (let id = waiting.pop(); id !== undefined; id = waiting.pop()) {
      if (await act(id)) taken.push(id)
    }
  }
  await Promise.all(Array.from({ length: 16 }, work))
  return taken
}

/** Whether anything that can be asked of a session is answered. */
async function isServed(fetch: Fetch, id: string): Promise<boolean> {
  const headers = { 'mcp-session-id': id }
  const accept = { accept: 'text/event-stream' }
  const requests = [
    post(JSON.stringify(toolCall('get_counter')), headers),
    post(JSON.stringify(initialize), headers),
    new Request(`${BASE}/mcp`, { headers: { ...headers, ...accept } }),
    new Request(`${BASE}/mcp`, { method: 'DELETE', headers }),
  ]
  const statuses = requests.map(async (request) => {
    const response = await fetch(request)
    await response.body?.cancel()
    return response.status
  })
  return (await Promise.all(statuses)).some((status) => status !== 404)
}

/** Likewise by an argument, or in the name of a resource. */
async function isServedByName(fetch: Fetch, session: string): Promise<boolean> {
  const uri = `resource://session/${session}/summary`
  const requests = [askTool('increment_counter', { session }), ask('resources/read', { uri })]
  const served = requests.map(async (request) => {
    const { result, error } = (await (await fetch(request)).json()) as Failing
    return error === undefined && result?.isError !== true
  })
  return (await Promise.all(served)).includes(true)
}

interface Failing {
  readonly result?: { readonly isError?: boolean }
  readonly error?: object
}

/** All 264 changes of one bit, and what a lenient reader would take for the same. */
function spellingsOf(id: string): string[] {
  const bits = Array.from(id).flatMap((char, at) =>
    Array.from({ length: 6 }, (_, bit) => {
      const other = ALPHABET[ALPHABET.indexOf(char) ^ (1 << bit)] ?? ''
      return id.slice(0, at) + other + id.slice(at + 1)
    }),
  )
  const cases = Array.from(id, (char, at) => id.slice(0, at) + flipped(char) + id.slice(at + 1))
  const standard = id.replaceAll('-', '+').replaceAll('_', '/')
  const padded = [`${id}=`, `${id}==`, `${id}A`, `A${id}`, id.slice(1), id.slice(0, -1)]
  const all = [...bits, ...cases, standard, ...padded, `${id}.`, `${id};`, id + id]
  return [...new Set(all)].filter((one) => one !== id)
}

/** Likewise of 64 hexadecimal characters: 256 changes of one bit. */
function hexSpellingsOf(id: string): string[] {
  const bits = Array.from(id).flatMap((char, at) =>
    Array.from({ length: 4 }, (_, bit) => {
      const other = (parseInt(char, 16) ^ (1 << bit)).toString(16)
      return id.slice(0, at) + other + id.slice(at + 1)
    }),
  )
  const cases = Array.from(id, (char, at) => id.slice(0, at) + flipped(char) + id.slice(at + 1))
  const all = [...bits, ...cases, id.toUpperCase(), `${id}0`, `0${id}`, id.slice(1), `0x${id}`]
  return [...new Set(all)].filter((one) => one !== id)
}

function flipped(char: string): string {
  return char === char.toLowerCase() ? char.toUpperCase() : char.toLowerCase()
}

/** How often each random bit is set. */
function bitsOf(ids: readonly Buffer[]): number[] {
  return Array.from({ length: RANDOM_BITS }, (_, bit) => ids.filter((id) => bitAt(id, bit)).length)
}

/** Of those behind the version's byte. */
function bitAt(id: Buffer, bit: number): boolean {
  return (((id[1 + (bit >> 3)] ?? 0) >> (bit & 7)) & 1) === 1
}

/** Further from the half than chance goes in the time that there is. */
function isTooFar(count: number, of: number): boolean {
  return Math.abs(count - of / 2) > (SIGMAS * Math.sqrt(of)) / 2
}
