import { parseInitialize, respond } from './message.ts'
import { measuredCall } from './measured.ts'
import { refusalOf } from './refusal.ts'
import type { Post, Unserved } from './router.ts'
import { SessionRuntime, type RuntimeOptions } from './runtime.ts'

/** Starts a session: `post` must be its `initialize` request. */
export async function openSession(
  post: Post,
  options: RuntimeOptions,
): Promise<{ kind: 'opened'; runtime: SessionRuntime; body: string } | Unserved> {
  try {
    const request = parseInitialize(post.body, options.limits)
    const { clock, meter } = options
    const startedAt = clock.now()
    const runtime = new SessionRuntime(options)
    const outcome = await runtime.begin(request, post)
    meter?.(measuredCall(request, [], outcome, clock.now() - startedAt))
    const body = JSON.stringify(respond(request.id, outcome))
    if ('error' in outcome) return { kind: 'refused', status: 200, body }
    return { kind: 'opened', runtime, body }
  } catch (error) {
    return refusalOf(error, options.log)
  }
}

/** Builds the runtime of a session that was begun before; `undefined` if there is none. */
export async function restoreRuntime(options: RuntimeOptions): Promise<SessionRuntime | undefined> {
  const runtime = new SessionRuntime(options)
  return (await runtime.resume()) ? runtime : undefined
}
