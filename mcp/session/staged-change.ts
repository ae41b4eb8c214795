import type { SessionState } from './state.ts'
import type { Commit } from './store.ts'

/** A change of the state that waits for the reply of its call, and other calls wait for it. */
export class StagedChange {
  #change: NonNullable<Commit['change']> | undefined
  #release: (() => void) | undefined

  /** The state with the change in it; `undefined` if there is none. */
  get state(): SessionState | undefined {
    return this.#change?.state
  }

  /** `release` lets the other calls go on. */
  stage(change: NonNullable<Commit['change']>, release: () => void): void {
    this.#change = change
    this.#release = release
  }

  replace(state: SessionState): SessionState {
    if (this.#change !== undefined) this.#change = { ...this.#change, state }
    return state
  }

  /** The change, to be committed now: who takes it lets the others go on. */
  take(): Pick<Commit, 'change'> & { readonly release?: () => void } {
    const [change, release] = [this.#change, this.#release]
    this.#change = undefined
    this.#release = undefined
    return { ...(change && { change }), ...(release && { release }) }
  }

  drop(): void {
    this.take().release?.()
  }
}
