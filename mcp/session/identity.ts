import type { JSONRPCRequest } from '@modelcontextprotocol/server'
import { ServerError } from '../errors.ts'
import type { Post } from './router.ts'
import type { Reply } from './store.ts'
import type { Tool } from './tool.ts'

/** What makes a call the same call when it is sent again. */
export type Identity = Pick<Reply, 'key' | 'fingerprint' | 'attempt' | 'keepMs'>

const META_KEY = 'dev.holdfast/idempotency-key'
const MAX_KEY_LENGTH = 128

/**
 * What makes `request` the same call when it is sent again: the client's idempotency key, or the
 * router's own. Never the JSON-RPC id: clients restart it, and some send 1 for everything.
 */
export function identify(
  request: JSONRPCRequest,
  post: Post,
  tools: readonly Tool[],
): Identity | undefined | Promise<Identity> {
  if (request.method !== 'tools/call') return undefined
  const { params } = request
  const key = params?._meta?.[META_KEY] ?? params?.['idempotencyKey'] ?? post.idempotencyKey
  if (key !== undefined) return byClient(checkKey(key), params, tools)
  if (post.attempt === undefined) return undefined
  const { attempt } = post
  // Each POST has another, so there is nothing that could differ.
  return { key: `router/${attempt.sender}/${attempt.number}`, attempt, fingerprint: '' }
}

async function byClient(
  key: string,
  params: JSONRPCRequest['params'],
  tools: readonly Tool[],
): Promise<Identity> {
  return { key: `client/${key}`, fingerprint: await fingerprint(params, tools) }
}

function checkKey(key: unknown): string {
  if (typeof key === 'string' && key !== '' && key.length <= MAX_KEY_LENGTH) return key
  const why = `it must be a string of 1 to ${MAX_KEY_LENGTH} characters`
  throw new ServerError('invalid_request', `Cannot use idempotency key: ${why}`)
}

/**
 * The tool and the arguments as it gets them, defaults and all, whatever the order of their keys: as
 * text if short, else hashed.
 */
async function fingerprint(
  params: JSONRPCRequest['params'],
  tools: readonly Tool[],
): Promise<string> {
  const name = params?.['name']
  const given = params?.['arguments'] ?? {}
  const tool = tools.find((one) => one.name === name)
  // What a schema refuses, throws at or makes no JSON of is told by what was given.
  const valid = await tool?.input.safeParseAsync(given).catch(() => undefined)
  const input: unknown = valid?.data
  return digestOf(canonical([name, input !== undefined && isJson(input) ? input : given]))
}

function isJson(value: unknown): boolean {
  if (typeof value !== 'object') return typeof value !== 'bigint' && typeof value !== 'function'
  // What says itself what it is in JSON, as a date does, may be told by that.
  if (value === null || 'toJSON' in value) return true
  const kind: unknown = Object.getPrototypeOf(value)
  const isPlain = Array.isArray(value) || kind === Object.prototype || kind === null
  return isPlain && Object.values(value).every((part) => isJson(part))
}

/** As good as `text` to tell it from others, and never long. */
export async function digestOf(text: string): Promise<string> {
  return text.length <= 120 ? text : hashOf(text)
}

export async function hashOf(text: string): Promise<string> {
  const hash = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text))
  return btoa(String.fromCharCode(...new Uint8Array(hash)))
}

export function canonical(value: unknown): string {
  return JSON.stringify(value, (_key, part: unknown) => {
    if (typeof part !== 'object' || part === null || Array.isArray(part)) return part
    return Object.fromEntries(Object.entries(part).toSorted(([a], [b]) => (a < b ? -1 : 1)))
  })
}

export function keyConflict(): ServerError {
  const why = 'it was used for a call with other arguments'
  return new ServerError('idempotency_key_conflict', `Cannot use idempotency key again: ${why}`)
}
