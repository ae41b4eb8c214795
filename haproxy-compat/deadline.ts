/**
 * Rejects what takes longer than `ms`. One timer watches all: one for each command would cost more than
 * the command.
 */
export function createDeadline(ms: number): <T>(work: Promise<T>) => Promise<T> {
  // In the order in which they are due.
  const waiting = new Set<Waiting>()
  let watching = false

  function watch(inMs: number): void {
    watching = true
    // After a stall of this process the answers may be there already, unread: they come first.
    setTimeout(() => setImmediate(check), inMs)
  }

  function check(): void {
    const now = performance.now()
    for (const one of waiting) {
      if (one.due > now) return watch(one.due - now)
      waiting.delete(one)
      one.reject(new Error(`No answer within ${ms} ms`))
    }
    watching = false
  }

  return <T>(work: Promise<T>) =>
    new Promise<T>((resolve, reject) => {
      const one = { due: performance.now() + ms, reject }
      waiting.add(one)
      if (!watching) watch(ms)
      const forget = (): boolean => waiting.delete(one)
      work.then(forget, forget)
      work.then(resolve, reject)
    })
}

interface Waiting {
  readonly due: number
  readonly reject: (error: unknown) => void
}
