import {
  fromJsonSchema,
  inputResponse,
  type ElicitRequestFormParams,
  type ElicitResult,
  type LoggingLevel,
  type ProgressToken,
} from '@modelcontextprotocol/server'
import { createCall, type Call, type CallOptions } from './call.ts'
import type { Question, Round } from './round.ts'
import type { JsonObject } from './state.ts'

/** What a request of the stateless revision says of its client. */
export interface RoundClient {
  /** No log message is sent to who has not asked for any. */
  readonly logLevel: LoggingLevel | undefined
  readonly progressToken: ProgressToken | undefined
  /** False for one of an earlier revision without a session: there is no way to it. */
  readonly canBeAsked: boolean
}

export interface RoundCallOptions extends Omit<CallOptions, 'asks' | 'logLevel' | 'progressToken'> {
  readonly client: RoundClient
}

/** The call as its tool sees it, the same as in the revisions with sessions. */
export function createRoundCall(round: Round, { client, ...options }: RoundCallOptions): Call {
  const { logLevel = 'none', progressToken, canBeAsked } = client
  const ask = async (method: Question['method'], params: object) => {
    if (!canBeAsked)
      throw new Error('Cannot ask the client: it has neither session nor revision for it')
    const answer = await round.ask({ method, params: params as JsonObject })
    return inputResponse({ answer }, 'answer')
  }
  return createCall(round, {
    ...options,
    logLevel: () => logLevel,
    progressToken,
    asks: {
      async elicit(form) {
        const answer = await ask('elicitation/create', { mode: 'form', ...form })
        if (answer.kind !== 'elicit') throw misfit('a filled in form')
        return checked(form, answer)
      },
      async sample(request) {
        const answer = await ask('sampling/createMessage', request)
        if (answer.kind !== 'sampling') throw misfit('a message')
        return answer.result
      },
    },
  })
}

/** The answer, if its content is what the form asks for. */
function checked(
  { requestedSchema }: ElicitRequestFormParams,
  { action, content }: { action: ElicitResult['action']; content?: Record<string, unknown> },
): ElicitResult {
  if (action !== 'accept') return { action }
  const outcome = fromJsonSchema(requestedSchema as JsonObject)['~standard'].validate(content ?? {})
  if (outcome instanceof Promise || outcome.issues !== undefined)
    throw misfit('what its form asks for')
  return { action, content: content as NonNullable<ElicitResult['content']> }
}

function misfit(what: string): Error {
  return new Error(`Cannot use the client's answer: it is not ${what}`)
}
