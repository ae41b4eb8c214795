import { createRequestStateCodec, type ServerContext } from '@modelcontextprotocol/server'
import * as z from 'zod'
import type { RoundState } from './round.ts'
import type { JsonValue } from './state.ts'

/** The secrets of the whole server. The first one signs, all of them check. */
export type Secrets = () => Promise<readonly [string, ...string[]]>

// The codec decodes leniently: with these the text of a signature is the only one that it has.
const FORM = /^v1\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$/
// A signature for this use is one for no other.
const PURPOSE = 'holdfast requestState '
const NO_CONTEXT = {} as ServerContext

/** What a call's rounds have come to, in the hands of its client: signed, bound, and soon too old. */
export class RequestStates {
  readonly #secrets: Secrets
  readonly #ttlSeconds: number

  constructor(secrets: Secrets, ttlMs: number) {
    this.#secrets = secrets
    this.#ttlSeconds = Math.ceil(ttlMs / 1000)
  }

  /** `binding` is all that must be the same when it comes back: who asks for what. */
  async sign(state: RoundState, binding: string): Promise<string> {
    const [secret] = await this.#secrets()
    return (await this.#codec(secret, binding)).mint(state, NO_CONTEXT)
  }

  /** `undefined` for what was not signed here, for this, a short while ago. */
  async read(text: unknown, binding: string): Promise<RoundState | undefined> {
    if (typeof text !== 'string' || !FORM.test(text)) return undefined
    for (const secret of await this.#secrets()) {
      const codec = await this.#codec(secret, binding)
      const read = await codec.verify(text, NO_CONTEXT).catch(() => undefined)
      if (read !== undefined) return roundState.safeParse(read).data as RoundState | undefined
    }
    return undefined
  }

  async #codec(secret: string, binding: string) {
    const text = new TextEncoder().encode(`${PURPOSE}${secret}`)
    const key = new Uint8Array(await crypto.subtle.digest('SHA-256', text))
    return createRequestStateCodec({ key, ttlSeconds: this.#ttlSeconds, bind: () => binding })
  }
}

const json = z.custom<JsonValue>()
const roundState = z.object({
  call: z.string(),
  round: z.int().positive(),
  did: z.array(
    z.object({
      kind: z.literal('did'),
      op: z.int(),
      what: z.string(),
      value: json.optional(),
      error: z.string().optional(),
    }),
  ),
  asked: z.record(z.string(), z.object({ method: z.string(), params: json })),
})
