import * as z from 'zod'
import type { Call } from '../../mcp/session/call.ts'
import { slot, type JsonValue, type SessionState } from '../../mcp/session/state.ts'
import { defineTool, type Pack } from '../../mcp/session/tool.ts'
import type { World } from './simulated-world.ts'

/** What a tool was told so far, in its order. */
export type Told = readonly (readonly [what: string, value: JsonValue])[]
export type WorkInput = z.output<typeof workInput>

const marks = slot('marks', z.array(z.string()).default([]))

const workInput = z.strictObject({
  key: z.string(),
  rounds: z.int(),
  /** Asks the client in its first round. */
  asks: z.boolean(),
  /** Its last payment fails. */
  declines: z.boolean(),
  /** How long it sleeps in each round, in milliseconds. */
  naps: z.int(),
})
const keyInput = z.strictObject({ key: z.string() })

export function marksOf(state: SessionState): readonly string[] {
  return marks.get(state)
}

/** What `work` says, in its order. */
export function labelsOf({ rounds, asks }: WorkInput): string[] {
  return Array.from({ length: rounds }, (_, n) => [
    `log ${n}`,
    `progress ${n}`,
    ...(asks && n === 0 ? ['ask'] : []),
    `beside ${n}`,
    `paid ${n}`,
  ]).flat()
}

/** Tools that tell all that they were told. `service` is outside: it knows repeats by their key. */
export function createPack(
  world: World,
  service: Map<string, { who: string; value: number }>,
): Pack {
  async function pay(call: Call, who: string, stepKey: string): Promise<number> {
    const instance = world.instance(call.instance)
    await new Promise<void>((resolve) => void world.later(world.latency(), instance, resolve))
    const known = service.get(stepKey)
    if (known === undefined) service.set(stepKey, { who, value: world.below(1e9) })
    await new Promise<void>((resolve) => void world.later(world.latency(), instance, resolve))
    return service.get(stepKey)?.value ?? 0
  }

  const work = defineTool({
    name: 'work',
    description: 'Does a little of everything',
    input: workInput,
    async run(call, { key, rounds, asks, declines, naps }) {
      const told: [string, JsonValue][] = []
      const tell = (what: string, value: JsonValue): void => void told.push([what, value])
      const says = (label: string): string => JSON.stringify({ label, told })
      tell('read', marks.get(await call.read()).length)
      for (let n = 0; n < rounds; n++) {
        await call.log('info', says(`log ${n}`))
        tell(`update ${key}/${n}`, await mark(call, `${key}/${n}`))
        await call.progress(n, rounds, says(`progress ${n}`))
        if (asks && n === 0) tell('answer', await answerTo(call, says('ask')))
        tell(`now before ${n}`, await call.now())
        const [again] = await Promise.all([
          call.update((state) => state),
          call.log('notice', says(`beside ${n}`)),
          call.sleep(naps),
        ])
        tell(`read ${n}`, marks.get(again).length)
        tell(`now after ${n}`, await call.now())
        const isDeclined = declines && n === rounds - 1
        tell(`paid ${n}`, await payment(call, `${key}/${n}`, isDeclined))
        await call.log('error', says(`paid ${n}`))
      }
      return { told }
    },
  })

  async function payment(call: Call, who: string, isDeclined: boolean): Promise<JsonValue> {
    try {
      return await call.step('pay', async (stepKey) => {
        const value = await pay(call, who, stepKey)
        if (isDeclined) throw new Error(`declined ${value}`)
        return value
      })
    } catch (error) {
      // One that is stopped is to stop.
      if (!String(error).includes('declined')) throw error
      return String(error)
    }
  }

  const add = defineTool({
    name: 'add',
    description: 'Adds one',
    input: keyInput,
    async run(call, { key }) {
      return { told: [[`update ${key}/0`, await mark(call, `${key}/0`)]] }
    },
  })

  const twice = defineTool({
    name: 'twice',
    description: 'Adds two',
    input: keyInput,
    async run(call, { key }) {
      const first = await mark(call, `${key}/0`)
      const between = marks.get(await call.read()).length
      const second = await mark(call, `${key}/1`)
      const told = [
        [`update ${key}/0`, first],
        ['read', between],
        [`update ${key}/1`, second],
      ]
      return { told }
    },
  })

  const get = defineTool({
    name: 'get',
    description: 'Reads',
    input: z.strictObject({}),
    run: async (call) => ({ told: [['read', marks.get(await call.read()).length]] }),
  })

  return { name: 'simulated', version: '0', tools: [work, add, twice, get] }
}

async function mark(call: Call, name: string): Promise<number> {
  return marks.get(await call.update((state) => marks.set(state, [...marks.get(state), name])))
    .length
}

/** The number that the client gave; 0 if it gave none in time. */
async function answerTo(call: Call, message: string): Promise<number> {
  const requestedSchema = {
    type: 'object' as const,
    properties: { n: { type: 'integer' as const } },
  }
  try {
    const { content } = await call.elicit({ message, requestedSchema })
    return Number(content?.['n'])
  } catch (error) {
    if (!String(error).includes('in time')) throw error
    return 0
  }
}
