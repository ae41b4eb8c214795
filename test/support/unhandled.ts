import { onTestFinished } from 'vitest'

/** The rejections that nobody handles until the test has finished: each would end a process. */
export function unhandledRejections(): readonly unknown[] {
  const seen: unknown[] = []
  const hear = (error: unknown): void => void seen.push(error)
  process.on('unhandledRejection', hear)
  onTestFinished(() => void process.off('unhandledRejection', hear))
  return seen
}
