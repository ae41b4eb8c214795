import * as z from 'zod'
import { slot } from '../session/state.ts'

// The keys of the state, one for each thing that the tools remember.
export const counter = slot('counter', z.int().default(0))
export const notes = slot('notes', z.array(z.string()).readonly().default([]))
export const analysisResult = slot(
  'analysis_result',
  z.object({ total_score: z.number(), items_processed: z.int() }).nullable().default(null),
)
