import { serveNode } from 'holdfast/node'
import { createFileStore } from './file-store.ts'
import { shop } from '../shopping-list/tools.ts'

await serveNode({ ...shop, store: createFileStore(process.env['SESSIONS_FILE'] ?? 'sessions.db') })
