import {
  ProtocolError,
  ProtocolErrorCode,
  type CallToolResult,
  type JSONRPCRequest,
} from '@modelcontextprotocol/server'
import { messageOf } from '../errors.ts'
import type { JsonObject } from './state.ts'
import type { RpcOutcome } from './store.ts'
import type { Tool } from './tool.ts'

// Calls of a pack's own tools go past the SDK, which takes a message apart eight times on its way to a
// tool and back (`docs/decisions/021`). It is asked where there is anything to refuse.

/** A tool, and its arguments as it gets them. */
export interface OwnCall {
  readonly tool: Tool
  readonly input: JsonObject
}

// What may be in params and says nothing to the SDK that it does not say to us.
const PLAIN: ReadonlySet<string> = new Set(['name', 'arguments', '_meta', 'idempotencyKey'])

/** The call that `request` is; `undefined` for all that the SDK is to answer. */
export async function findOwnCall(
  { method, params = {} }: JSONRPCRequest,
  tools: readonly Tool[],
): Promise<OwnCall | undefined> {
  if (method !== 'tools/call') return undefined
  const tool = tools.find(({ name }) => name === params['name'])
  if (tool === undefined || !Object.keys(params).every((key) => PLAIN.has(key))) return undefined
  const { arguments: given = {} } = params
  try {
    const valid = await tool.input['~standard'].validate(given)
    return valid.issues === undefined ? { tool, input: valid.value as JsonObject } : undefined
  } catch {
    // A schema of a tool's own may throw: a refusal as well.
    return undefined
  }
}

/** What a call comes to, in the SDK's words: what its tool throws is a result as well. */
export async function outcomeOfCall(run: () => Promise<JsonObject>): Promise<RpcOutcome> {
  try {
    return { result: await run() }
  } catch (error) {
    if (isUrlRequired(error)) {
      const { code, message, data } = error
      return { error: { code, message, data: data as JsonObject } }
    }
    return { result: failure(messageOf(error)) }
  }
}

/** What a tool has returned, as the client gets it. */
export function resultOf(structuredContent: JsonObject): CallToolResult & JsonObject {
  const isObject = typeof structuredContent === 'object' && structuredContent !== null
  if (!isObject || Array.isArray(structuredContent)) {
    throw new Error('Cannot answer call: its tool has returned no object')
  }
  const text = JSON.stringify(structuredContent)
  return { content: [{ type: 'text', text }], structuredContent, isError: false }
}

export function failure(text: string): CallToolResult & JsonObject {
  return { content: [{ type: 'text', text }], isError: true }
}

/** The one error of a tool that is its client's to see: the user has to go to a page first. */
function isUrlRequired(error: unknown): error is ProtocolError {
  return error instanceof ProtocolError && error.code === URL_REQUIRED
}

const URL_REQUIRED: number = ProtocolErrorCode.UrlElicitationRequired
