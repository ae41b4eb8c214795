import type { Principal } from '../session/ids.ts'

/** Says who sends `request`, or answers it with the refusal. */
export type Authenticate = (request: Request) => Promise<Principal | Response>

/** Everybody is the same caller: whoever knows a session id may use the session. */
export const anonymous: Authenticate = () => Promise.resolve('anonymous' as Principal)
