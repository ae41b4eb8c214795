import { createHash } from 'node:crypto'
import type { Fetch } from '../support/mcp.ts'

/** As a setting has a static token. */
export function hashed(name: string, token: string, scopes?: string): string {
  const hash = createHash('sha256').update(token).digest('hex')
  return [name, hash, ...(scopes === undefined ? [] : [scopes])].join(':')
}

/** Who shows `token` with all that it says; `undefined`: nobody. */
export function bearing(fetch: Fetch, token: string | undefined): Fetch {
  return (request) => {
    const headers = new Headers(request.headers)
    if (token === undefined) headers.delete('authorization')
    else headers.set('authorization', `Bearer ${token}`)
    return fetch(new Request(request, { headers }))
  }
}
