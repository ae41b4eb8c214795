import * as z from 'zod'
import { defineTool } from '../session/tool.ts'
import { analysisResult } from './state.ts'

const SCORE_PER_ITEM = 1.5
const MAX_ITEMS = 10_000

export const analyzeData = defineTool({
  name: 'analyze_data',
  description: 'Analyzes items one by one, with a log message and progress for each.',
  input: z.strictObject({ num_items: z.int().max(MAX_ITEMS) }),
  async run(call, { num_items: count }) {
    await call.log('info', `Starting analysis of ${count} items on ${call.instance}`)
    await call.progress(0, count, 'Validating input data')
    await call.log('debug', 'Phase 1: Input validation')
    await call.sleep(500)

    let score = 0
    for (let item = 1; item <= count; item++) {
      await call.progress(item, count, `Processing item ${item}/${count}`)
      await call.log('debug', `Processing item ${item}`)
      await call.sleep(300)
      score += item * SCORE_PER_ITEM
    }

    await call.log('info', 'Aggregating results')
    await call.sleep(300)
    const result = { total_score: score, items_processed: count }
    await call.update((before) => analysisResult.set(before, result))
    await call.log(
      'info',
      `Analysis complete: processed ${count} items, total score=${asFloat(score)}`,
    )
    return { items_processed: count, total_score: score, instance: call.instance }
  },
})

/** As Python writes a sum of floats: `9.0`, `4.5`, and `0` for no summand at all. */
function asFloat(value: number): string {
  return Number.isInteger(value) && value !== 0 ? value.toFixed(1) : String(value)
}
