import type { RemoteOperator } from './remote-operator.ts'

/** May answer another exit code than 0. Throws with one line that says what could not be done. */
export type Command = (asked: Asked) => Promise<number | void>

export interface Asked {
  readonly operator: RemoteOperator
  /** Of the server. */
  readonly url: string
  /** What the command is about; empty if it takes none. */
  readonly name: string
  /** For machines instead of people. */
  readonly json: boolean
  readonly terminal: Terminal
}

export interface Terminal {
  readonly env: NodeJS.ProcessEnv
  /** Where one is. */
  readonly folder: string
  readonly print: (text: string) => void
  readonly complain: (text: string) => void
  readonly hasColours: boolean
}

/** It was called wrongly. */
export class UsageError extends Error {}

/** As JSON that does nothing to a terminal: control characters above ASCII are left as they are by it. */
export function jsonText(value: unknown, indent?: number): string {
  return JSON.stringify(value, null, indent).replaceAll(/[\u007f-\u009f]/g, escaped)
}

/** Strangers name clients: what would steer a terminal, or hide, is not shown. */
export function plain(text: string): string {
  return text.replaceAll(/\p{C}|\p{Zl}|\p{Zp}/gu, '?')
}

function escaped(char: string): string {
  return `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`
}
