import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto'
import type { SessionId } from '../mcp/session/ids.ts'

// 1 byte of version, 16 of chance, 16 of a tag over the rest: 33 bytes, 44 characters of base64url.
const VERSION = 1
const RANDOM_BYTES = 16
const TAG_BYTES = 16
const FORM = /^[A-Za-z0-9_-]{44}$/

export interface SessionIds {
  mint(): SessionId
  /** Whether one of this fleet has minted `id`. Asks no store: a forged id costs nothing. */
  isMinted(id: string): boolean
}

/**
 * Session ids that tell a forged one. The first of `secrets` mints, all of them check: so one is
 * taken out of use by putting another before it, and leaving it for as long as a session lives.
 */
export function createSessionIds(secrets: readonly [string, ...string[]]): SessionIds {
  const tag = (secret: string, head: Buffer): Buffer =>
    createHmac('sha256', secret).update(head).digest().subarray(0, TAG_BYTES)

  return {
    mint() {
      const head = Buffer.concat([Buffer.of(VERSION), randomBytes(RANDOM_BYTES)])
      return Buffer.concat([head, tag(secrets[0], head)]).toString('base64url') as SessionId
    },

    isMinted(id) {
      if (!FORM.test(id)) return false
      const bytes = Buffer.from(id, 'base64url')
      const head = bytes.subarray(0, 1 + RANDOM_BYTES)
      const given = bytes.subarray(1 + RANDOM_BYTES)
      return secrets.some((secret) => timingSafeEqual(given, tag(secret, head)))
    },
  }
}
