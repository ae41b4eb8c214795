import { defineTool, slot, type Pack } from 'holdfast'
import * as z from 'zod'

const list = slot('list', z.array(z.string()).readonly().default([]))

const item = z.strictObject({ item: z.string().min(1).max(100) })

const add = defineTool({
  name: 'add',
  description: 'Puts an item on the shopping list.',
  input: item,
  async run(call, { item: added }) {
    const state = await call.update((before) => list.set(before, [...list.get(before), added]))
    return { list: list.get(state) }
  },
})

const remove = defineTool({
  name: 'remove',
  description: 'Takes an item off the shopping list.',
  input: item,
  async run(call, { item: removed }) {
    const state = await call.update((before) => {
      const items = list.get(before)
      if (!items.includes(removed)) throw new Error(`There is no ${removed} on the list`)
      return list.set(before, items.toSpliced(items.indexOf(removed), 1))
    })
    return { list: list.get(state) }
  },
})

const show = defineTool({
  name: 'list',
  description: 'Reads the shopping list.',
  input: z.strictObject({}),
  annotations: { readOnlyHint: true },
  async run(call) {
    return { list: list.get(await call.read()) }
  },
})

export const shop: Pack = { name: 'shopping-list', version: '1.0.0', tools: [add, remove, show] }
