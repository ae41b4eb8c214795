import { describe, it } from 'vitest'
import { sessionStoreContract as contract, type UseStore } from '../../testing/session-store.ts'

/** What every store must do, as tests of the one that `useStore` lends. */
export function sessionStoreContract(store: string, useStore: UseStore): void {
  describe(`session store: ${store}`, () => {
    it.each(contract)('$name', (part) => part.check(useStore))
  })
}
