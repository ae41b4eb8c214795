import * as z from 'zod'
import { readEvents } from '../client/sse.ts'
import { messageOf } from '../mcp/errors.ts'
import type { Happening, Operator, Overview, SessionName, SessionView } from '../mcp/operator.ts'

const TIMEOUT_MS = 10_000

export interface RemoteOperator extends Required<Operator> {
  session(name: SessionName): Promise<SessionView | undefined>
}

/**
 * The server at `url`, as its operators reach it over HTTP (`mcp/http/admin.ts`). What fails is an
 * error of one line.
 */
export function createRemoteOperator(url: string, token: string | undefined): RemoteOperator {
  const ask = async (method: string, path: string, signal?: AbortSignal): Promise<Response> => {
    const headers = token === undefined || token === '' ? {} : { authorization: `Bearer ${token}` }
    const timed = signal ?? AbortSignal.timeout(TIMEOUT_MS)
    const response = await fetch(new URL(path, url), {
      method,
      headers,
      signal: timed,
      redirect: 'error',
    }).catch((error: unknown) => {
      throw new Error(`Cannot reach ${url}: ${reasonOf(error)}`)
    })
    if (response.ok) return response
    const { message, type } = await errorOf(response)
    if (type === 'session_not_found' || type === 'instance_not_found') return response
    if (response.status === 404) throw strange()
    if (response.status !== 401) throw new Error(`${url} refuses: ${message}`)
    const wanted = token ? 'does not take this token' : 'asks for a token'
    throw new Error(`${url} refuses: it ${wanted} (HOLDFAST_TOKEN)`)
  }
  const strange = (): Error =>
    new Error(`${url} does not answer as Holdfast does: is HOLDFAST_URL right?`)
  const at = (name: string): string => `/admin/sessions/${encodeURIComponent(name)}`
  const read = async <T>(response: Response, schema: z.ZodType<T>): Promise<T> => {
    const { data } = schema.safeParse(await response.json().catch(() => undefined))
    if (response.ok && data !== undefined) return data
    throw strange()
  }

  return {
    async overview() {
      return read(await ask('GET', '/admin/overview'), overview)
    },
    async session(name) {
      const response = await ask('GET', at(name))
      return response.ok ? read(response, session) : undefined
    },
    async end(name) {
      return (await ask('DELETE', at(name))).ok
    },
    async follow(name, signal) {
      const { ok, body } = await ask('GET', `${at(name)}/events`, signal)
      return ok && body !== null ? happenings(body) : undefined
    },
    async drain(instance, isDrained) {
      const verb = isDrained ? 'drain' : 'undrain'
      return (await ask('POST', `/admin/instances/${encodeURIComponent(instance)}/${verb}`)).ok
    },
  }
}

async function* happenings(body: ReadableStream<Uint8Array>): AsyncGenerator<Happening> {
  for await (const { type, data } of readEvents(body)) {
    if (type === 'happening') yield happening.parse(JSON.parse(data))
  }
}

/** In the words of the system: `fetch` itself only says that it has failed. */
function reasonOf(error: unknown): string {
  if (error instanceof Error && error.name === 'TimeoutError') {
    return `no answer within ${TIMEOUT_MS / 1000} s`
  }
  const { cause } = error as { cause?: { code?: string } }
  return cause?.code ?? messageOf(cause ?? error)
}

/** Of an answer that is none of ours it is said what it has for a status. */
async function errorOf(response: Response): Promise<{ message: string; type?: string }> {
  const { data } = refusal.safeParse(await response.json().catch(() => undefined))
  if (data === undefined) return { message: `HTTP ${response.status}` }
  return { message: data.error.message, type: data.error.data.type }
}

const refusal = z.object({
  error: z.object({ message: z.string(), data: z.object({ type: z.string() }) }),
})

const sessionName = z.string().transform((text) => text as SessionName)

const session: z.ZodType<SessionView> = z.looseObject({
  name: sessionName,
  id: z.string(),
  principal: z.string(),
  client: z.string(),
  revision: z.string(),
  holder: z.string(),
  openedAt: z.number(),
  usedAt: z.number(),
  expiresAt: z.number(),
  calls: z.number(),
  streams: z.number(),
  running: z.number(),
})

const instance = z.looseObject({
  name: z.string(),
  state: z.enum(['ready', 'draining', 'lost']),
  startedAt: z.number(),
  reportedAt: z.number(),
  sessions: z.number(),
  streams: z.number(),
  running: z.number(),
  residentBytes: z.number(),
  load: z.number(),
  calls: z.number(),
  errors: z.number(),
  latencies: z.array(z.number()),
  refusals: z.record(z.string(), z.number()),
})

const failover = z.looseObject({
  at: z.number(),
  kind: z.enum(['restored', 'taken_over']),
  id: z.string(),
  instance: z.string(),
  from: z.string().optional(),
  tookMs: z.number(),
})

const overview: z.ZodType<Overview> = z.looseObject({
  at: z.number(),
  topology: z.enum(['edge', 'fleet', 'node']),
  sessions: z.object({ total: z.number(), latest: z.array(session) }),
  instances: z.array(instance),
  failovers: z.array(failover),
})

const happening: z.ZodType<Happening> = z.looseObject({
  at: z.number(),
  kind: z.enum(['changed', 'grown', 'followed', 'ended']),
  version: z.number().optional(),
  stream: z.string().optional(),
  last: z.number().optional(),
})
