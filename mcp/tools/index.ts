import type { Pack } from '../session/tool.ts'
import { analyzeData } from './analysis.ts'
import { getCounter, incrementCounter } from './counter.ts'
import { addNote, clearNotes, listNotes } from './notes.ts'
import { resumeSession } from './resume-session.ts'
import { getServerInfo, getStatus } from './status.ts'
import { sessionSummary } from './summary.ts'
import { watchCounter } from './watch.ts'

/** The one list of what this server offers, on every topology. */
export const tools: Pack = {
  name: 'holdfast',
  version: '0.1.0',
  tools: [
    incrementCounter,
    getCounter,
    addNote,
    listNotes,
    getServerInfo,
    resumeSession,
    analyzeData,
    getStatus,
    watchCounter,
    clearNotes,
  ],
  resources: [sessionSummary],
}
