import type { RemoteOperator } from './remote-operator.ts'

/** Answers the exit code. Throws with one line that says what could not be done. */
export type Command = (asked: Asked) => Promise<number>

export interface Asked {
  readonly operator: RemoteOperator
  /** Of the server. */
  readonly url: string
  /** What the command is about; empty if it takes none. */
  readonly name: string
  /** For machines instead of people. */
  readonly json: boolean
}

/** It was called wrongly. */
export class UsageError extends Error {}

export function print(text: string): number {
  process.stdout.write(`${text}\n`)
  return 0
}

export function printJson(value: unknown): number {
  // Control characters above ASCII are some to a terminal as well, and JSON leaves them as they are.
  return print(JSON.stringify(value, null, 2).replaceAll(/[\u007f-\u009f]/g, escaped))
}

/** Strangers name clients: what would steer a terminal, or hide, is not shown. */
export function plain(text: string): string {
  return text.replaceAll(/\p{C}|\p{Zl}|\p{Zp}/gu, '?')
}

function escaped(char: string): string {
  return `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`
}
