import type { Counters, ShardPage } from '../durable-objects/shard.ts'

/** One line for each shard: one that was reset begins at 0 again, which a sum of them would hide. */
const COUNTERS: readonly (readonly [name: string, help: string, of: keyof Counters])[] = [
  ['holdfast_calls_total', 'Requests of clients that have their answer', 'calls'],
  ['holdfast_restores_total', 'Sessions that went on in another object', 'restored'],
  ['holdfast_takeovers_total', 'Calls that went on in another object', 'takenOver'],
]

/** What the index knows, as Prometheus reads it. */
export function metricsText(pages: readonly ShardPage[]): { text: string; contentType: string } {
  const lines = [
    '# HELP holdfast_sessions Sessions that live',
    '# TYPE holdfast_sessions gauge',
    ...pages.map(({ total }, shard) => `holdfast_sessions{shard="${shard}"} ${total}`),
    ...COUNTERS.flatMap(([name, help, of]) => [
      `# HELP ${name} ${help}`,
      `# TYPE ${name} counter`,
      ...pages.map(({ counters }, shard) => `${name}{shard="${shard}"} ${counters[of]}`),
    ]),
  ]
  return { text: `${lines.join('\n')}\n`, contentType: 'text/plain; version=0.0.4; charset=utf-8' }
}
