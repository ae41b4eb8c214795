/** How many rows does a session write, and a call? Counted inside workerd, apart from the clock. */
import { convertV4MiniflareOptions, Miniflare } from 'miniflare'
import type { BundledModules } from '../test/support/bundle.ts'

export interface RowCount {
  readonly perSession: number
  readonly perCall: number
}

export interface CountedWorker {
  readonly modules: BundledModules
  readonly compatibilityDate: string
  /** Bindings and the classes behind them. */
  readonly objects: readonly (readonly [binding: string, className: string])[]
  readonly openSession: (url: URL) => Promise<string>
  readonly call: (url: URL, session: string) => Promise<unknown>
}

const SESSIONS = 10
const CALLS = 20

/** The mean of some sessions and calls; what an object writes later, by an alarm, is not in it. */
export async function countRows(worker: CountedWorker): Promise<RowCount> {
  const miniflare = new Miniflare(
    convertV4MiniflareOptions({
      modules: [
        { type: 'ESModule', path: 'counting.js', contents: countingModule(worker.objects) },
        ...worker.modules,
      ],
      compatibilityDate: worker.compatibilityDate,
      bindings: { ALLOWED_HOSTS: 'localhost,127.0.0.1' },
      durableObjects: Object.fromEntries(
        worker.objects.map(([binding, className]) => [binding, { className, useSQLite: true }]),
      ),
    }),
  )
  const origin = await miniflare.ready
  const url = new URL('/mcp', origin)
  const rows = async (): Promise<number> =>
    Number(await (await fetch(new URL('/rows', origin))).text())
  const sessions: string[] = []
  while (sessions.length < SESSIONS) sessions.push(await worker.openSession(url))
  const opened = await rows()
  for (const session of sessions) {
    for (let n = 0; n < CALLS; n++) await worker.call(url, session)
  }
  const called = await rows()
  await miniflare.dispose()
  return {
    perSession: opened / SESSIONS,
    perCall: (called - opened) / (SESSIONS * CALLS),
  }
}

/** The same Worker with each of its writes counted: what `rowsWritten` says, else one a key. */
function countingModule(objects: CountedWorker['objects']): string {
  const classes = objects.map(
    ([, name]) => `export class ${name} extends worker.${name} {
      constructor(ctx, env) { count(ctx.storage); super(ctx, env) }
    }`,
  )
  return `
    import * as worker from './index.js'
    let rows = 0
    let counting = false
    const cursors = []
    function wrap(owner, name, counted) {
      const original = owner[name]
      owner[name] = function (...args) {
        const result = original.apply(this, args)
        counted(result, args[0])
        return result
      }
    }
    function count(storage) {
      if (counting) return
      counting = true
      const many = (_, key) => { rows += typeof key === 'object' ? Object.keys(key).length : 1 }
      for (const owner of [storage, storage.kv].map(Object.getPrototypeOf)) {
        wrap(owner, 'put', many)
        wrap(owner, 'delete', many)
      }
      wrap(Object.getPrototypeOf(storage), 'setAlarm', () => { rows += 1 })
      wrap(Object.getPrototypeOf(storage.sql), 'exec', (cursor) => { cursors.push(cursor) })
    }
    ${classes.join('\n')}
    export default {
      fetch(request, env, ctx) {
        if (new URL(request.url).pathname !== '/rows') return worker.default.fetch(request, env, ctx)
        return new Response(cursors.reduce((sum, cursor) => sum + cursor.rowsWritten, rows))
      },
    }`
}
