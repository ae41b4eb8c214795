/** What the doctor says of one thing, and what to do about it where that is needed. */
export interface Finding {
  readonly kind: 'ok' | 'warning' | 'problem'
  /** What it is about, in a word. */
  readonly about: string
  readonly text: string
}

export type Check = (checked: Checked) => Promise<readonly Finding[]>

interface Checked {
  /** Of the server that is asked. */
  readonly url: string
  /** The settings, as an instance would have them. */
  readonly env: NodeJS.ProcessEnv
  /** Where a Worker's configuration may be. */
  readonly folder: string
}

/** Says things about one matter. */
export function findingsAbout(about: string) {
  return {
    ok: (text: string): Finding => ({ kind: 'ok', about, text }),
    warning: (text: string): Finding => ({ kind: 'warning', about, text }),
    problem: (text: string): Finding => ({ kind: 'problem', about, text }),
  }
}

/** True if version `found` is `least` or later; both as `1.2.3`, the end of which may be missing. */
export function isAtLeast(found: string, least: string): boolean {
  const parts = found.split(/[.-]/).map(Number)
  for (const [at, wanted] of least.split('.').map(Number).entries()) {
    const part = parts[at] ?? 0
    if (part !== wanted) return part > wanted
  }
  return true
}
