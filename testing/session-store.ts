import { stateCases } from './state-cases.ts'
import { streamCases } from './stream-cases.ts'
import type { UseStore } from './cases.ts'

export type { StoreUnderTest, UseStore } from './cases.ts'

/**
 * What every session store must do, whatever it keeps sessions in: for any test runner,
 *
 *     for (const { name, check } of sessionStoreContract) test(name, () => check(useStore))
 */
export const sessionStoreContract: readonly ContractCase[] = Object.entries({
  ...stateCases,
  ...streamCases,
}).map(([name, check]) => ({ name, check }))

export interface ContractCase {
  readonly name: string
  /** Throws if the store that `useStore` lends does not keep the contract. */
  check(useStore: UseStore): Promise<void>
}
