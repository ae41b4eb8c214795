import { defineTool, slot, type Call, type JsonObject, type Pack } from 'holdfast'
import * as z from 'zod'

const SECTIONS = ['revenue', 'costs', 'people', 'outlook'] as const

const report = z.object({
  year: z.int(),
  figures: z.record(z.string(), z.number()),
  audience: z.string(),
})
const reports = slot('reports', z.array(report).readonly().default([]))

const write = defineTool({
  name: 'write_report',
  description: 'Gathers the figures of a year, asks who the report is for, and keeps it.',
  input: z.strictObject({ year: z.int().min(2000).max(2100) }),
  async run(call, { year }): Promise<JsonObject> {
    const figures: Record<string, number> = {}
    for (const [index, section] of SECTIONS.entries()) {
      await call.progress(index, SECTIONS.length, `Gathering ${section}`)
      // An effect outside the session: what it came to is recorded, and not asked for again.
      figures[section] = await call.step(section, (key) => gather(year, section, key))
      await call.sleep(PAUSE_MS)
    }
    await call.progress(SECTIONS.length, SECTIONS.length, 'All figures are there')
    const audience = await askForAudience(call)
    if (audience === undefined) return { year, written: false }
    const state = await call.update((before) =>
      reports.set(before, [...reports.get(before), { year, figures, audience }]),
    )
    return { year, figures, audience, written: true, reports: reports.get(state).length }
  },
})

const PAUSE_MS = 500

/** The answer may arrive at any instance; an open question outlives the one that asked. */
async function askForAudience(call: Call): Promise<string | undefined> {
  const { action, content } = await call.elicit({
    message: 'Who is the report for?',
    requestedSchema: {
      type: 'object',
      properties: { audience: { type: 'string', enum: ['board', 'everybody'] } },
      required: ['audience'],
    },
  })
  return action === 'accept' ? String(content?.['audience']) : undefined
}

/** Stands for a slow service. A real one takes `key` along, by which it can tell repeats. */
async function gather(year: number, section: string, key: string): Promise<number> {
  console.log(`gathered ${section} (${key.split('/').slice(1).join('/')})`)
  return year * 100 + section.length
}

const list = defineTool({
  name: 'list_reports',
  description: 'Reads the reports that were written in this session.',
  input: z.strictObject({}),
  annotations: { readOnlyHint: true },
  async run(call) {
    return { reports: reports.get(await call.read()) }
  },
})

export const reporting: Pack = { name: 'report', version: '1.0.0', tools: [write, list] }
