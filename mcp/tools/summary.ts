import type { StateResource } from '../session/tool.ts'
import { analysisResult, counter, notes } from './state.ts'

export const sessionSummary: StateResource = {
  name: 'session_summary',
  description: 'All that one of your sessions remembers.',
  mimeType: 'text/plain',
  template: 'resource://session/{session_id}/summary',
  uriOf: (id) => `resource://session/${id}/summary`,
  read({ session, state, instance }) {
    const summary = {
      session_id: session,
      counter: counter.get(state),
      notes: notes.get(state),
      analysis_result: analysisResult.get(state),
      instance,
    }
    return JSON.stringify(summary, null, 2)
  },
}
