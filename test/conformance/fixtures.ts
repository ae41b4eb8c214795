import type { ServerNotifier } from '@modelcontextprotocol/server'
import type { Pack } from '../../mcp/session/tool.ts'
import { addChangeTools } from './fixtures/change-tools.ts'
import { addContentTools } from './fixtures/content-tools.ts'
import { addPrompts } from './fixtures/prompts.ts'
import { addQuestionTools } from './fixtures/question-tools.ts'
import { addResources } from './fixtures/resources.ts'
import { addRoundTools } from './fixtures/round-tools.ts'
import { addStreamTools } from './fixtures/stream-tools.ts'

/**
 * What the official conformance suites call, as a pack of its own: it is served only by the entries
 * beside it. Written straight on the SDK's server, as a user's existing server would be.
 */
export const fixtures: Pack = {
  name: 'holdfast-conformance',
  version: '0.0.0',
  tools: [],
  extend(server, notifier?: ServerNotifier) {
    addContentTools(server)
    addStreamTools(server)
    addQuestionTools(server)
    addRoundTools(server)
    addChangeTools(server, notifier)
    addResources(server)
    addPrompts(server)
  },
}
