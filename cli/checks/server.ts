import { messageOf } from '../../mcp/errors.ts'
import { findingsAbout, type Check, type Finding } from '../findings.ts'
import type { RemoteOperator } from '../remote-operator.ts'

const { ok, warning, problem } = findingsAbout('server')
const TIMEOUT_MS = 5000

/** That the server runs, reaches its store, takes sessions, and shows its operators how it is. */
export function checkServer(operator: RemoteOperator): Check {
  return async ({ url }) => {
    const live = await ask(url, '/live')
    if (live === undefined) {
      return [problem(`${url} does not answer: is it running, and is HOLDFAST_URL right?`)]
    }
    if (live.status !== 200) {
      return [problem(`${url}/live answers ${live.status}: is HOLDFAST_URL right?`)]
    }
    return [
      ok(`${url} answers`),
      await checkHealth(url),
      await checkReady(url),
      ...(await checkInstances(operator)),
    ]
  }
}

async function checkHealth(url: string): Promise<Finding> {
  const health = await ask(url, '/health')
  if (health?.status === 200) return ok('it reaches its store')
  return problem('it does not reach its store: see that Redis runs, and what REDIS_URL says there')
}

async function checkReady(url: string): Promise<Finding> {
  const ready = await ask(url, '/ready')
  if (ready?.status === 200) return ok('it takes sessions')
  const { status } = ready?.body ?? {}
  if (status === 'draining') return warning('the instance that was asked drains')
  return problem('it takes no sessions: /ready says why')
}

async function checkInstances(operator: RemoteOperator): Promise<readonly Finding[]> {
  try {
    const { instances, sessions, topology } = await operator.overview()
    const all = `${sessions.total} sessions`
    // What runs there is the platform's.
    if (topology === 'edge') return [ok(all)]
    const bad = instances.filter(({ state }) => state !== 'ready')
    return [
      ok(`${all}; ready instances: ${instances.length - bad.length}`),
      ...bad.map(({ name, state }) => warning(`${name} is ${state}`)),
    ]
  } catch (error) {
    return [warning(`what operators see was not checked: ${messageOf(error)}`)]
  }
}

interface Page {
  readonly status: number
  readonly body: { readonly status?: unknown }
}

/** `undefined` if nobody answers. */
async function ask(url: string, path: string): Promise<Page | undefined> {
  try {
    const response = await fetch(new URL(path, url), { signal: AbortSignal.timeout(TIMEOUT_MS) })
    const body: unknown = await response.json().catch(() => ({}))
    return { status: response.status, body: Object(body) as Page['body'] }
  } catch {
    return undefined
  }
}
