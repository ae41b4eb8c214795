import { readFileSync } from 'node:fs'
import { join } from 'node:path'

export type Arguments = Record<string, unknown>

/** One of the clients that are tried here, and what is known of it. */
export interface ClientKind {
  readonly name: string
  /** The npm package that it is. */
  readonly from: string
  /** What it speaks with a server that speaks all of them. */
  readonly revision: '2025-11-25' | '2026-07-28'
  /** It shows what a running call says. */
  readonly hears: boolean
  /** It can ask its user. */
  readonly asks: boolean
  readonly connect: (url: string) => Promise<TestClient>
}

/** A client that is connected, behind what all of them have in common. */
export interface TestClient {
  readonly revision: string | undefined
  /** What it sends as `mcp-session-id`, with each call the same. */
  readonly session: string | undefined
  readonly heard: Heard
  readonly tools: () => Promise<readonly Tool[]>
  /** Says `failure` where the client throws, or where the tool did. */
  readonly call: (name: string, args?: Arguments) => Promise<Outcome>
  readonly read: (uri: string) => Promise<unknown>
  readonly close: () => Promise<void>
}

export interface Tool {
  readonly name: string
  readonly inputSchema: { readonly required?: readonly string[] | undefined }
}

export interface Outcome {
  readonly content?: Record<string, unknown>
  readonly failure?: string
}

/** What calls have said so far. */
export interface Heard {
  readonly levels: string[]
  readonly progress: number[]
}

/** What a user says to the question of `clear_notes`. */
export const CONSENT: { action: 'accept'; content: { confirm: boolean } } = {
  action: 'accept',
  content: { confirm: true },
}

/** A client's result of a tool call. */
interface ToolResult {
  readonly isError?: unknown
  readonly structuredContent?: unknown
  readonly content?: unknown
}

export async function outcomeOf(call: () => Promise<object>): Promise<Outcome> {
  try {
    const result: ToolResult = await call()
    if (result.isError === true) return { failure: JSON.stringify(result.content) }
    return { content: result.structuredContent as Record<string, unknown> }
  } catch (error) {
    return { failure: String(error) }
  }
}

/** The version that is installed. */
export function versionOf(name: string): string {
  const text = readFileSync(join('node_modules', name, 'package.json'), 'utf8')
  return (JSON.parse(text) as { version: string }).version
}
