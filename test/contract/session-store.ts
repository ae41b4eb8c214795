import { describe, it } from 'vitest'
import { sessionStoreContract as contract, type UseStore } from '../../testing/session-store.ts'

/** What every store must do, as tests of the one that `useStore` lends. */
export function sessionStoreContract(store: string, useStore: UseStore): void {
  describe(`session store: ${store}`, () => {
    for (const { name, check } of contract) it(name, () => check(useStore))
  })
}
