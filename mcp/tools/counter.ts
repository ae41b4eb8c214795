import * as z from 'zod'
import { defineTool } from '../session/tool.ts'
import { counter } from './state.ts'

export const incrementCounter = defineTool({
  name: 'increment_counter',
  description: "Adds one to this session's counter.",
  input: z.strictObject({}),
  async run(call) {
    const state = await call.update((before) => counter.set(before, increment(counter.get(before))))
    return { counter: counter.get(state), instance: call.instance }
  },
})

export const getCounter = defineTool({
  name: 'get_counter',
  description: "Reads this session's counter; 0 if it was never raised.",
  input: z.strictObject({}),
  annotations: { readOnlyHint: true },
  async run(call) {
    return { counter: counter.get(await call.read()), instance: call.instance }
  },
})

function increment(value: number): number {
  if (value < Number.MAX_SAFE_INTEGER) return value + 1
  throw new Error(`Cannot raise counter: overflow at ${value}`)
}
