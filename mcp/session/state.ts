import type * as z from 'zod'

/** What tools read and change: JSON under top-level keys. It outlives any process. */
export type SessionState = { readonly [key: string]: JsonValue }

export type JsonValue =
  | null
  | boolean
  | number
  | string
  | readonly JsonValue[]
  | { readonly [key: string]: JsonValue }

export type JsonObject = { readonly [key: string]: JsonValue }

/** One key of the state with its schema: what comes out of storage is parsed, never asserted. */
export interface Slot<T extends JsonValue> {
  get(state: SessionState): T
  set(state: SessionState, value: T): SessionState
}

/** `slot('counter', z.int().default(0))`. The schema says what an unset key reads as. */
export function slot<T extends JsonValue>(key: string, schema: z.ZodType<T>): Slot<T> {
  return {
    get: (state) => schema.parse(state[key]),
    set: (state, value) => ({ ...state, [key]: value }),
  }
}

/** Freezes a value all the way down, so that a tool cannot change state except by `call.update`. */
export function freeze<T extends JsonValue>(value: T): T {
  if (typeof value !== 'object' || value === null || Object.isFrozen(value)) return value
  for (const part of Object.values(value)) freeze(part)
  return Object.freeze(value)
}
