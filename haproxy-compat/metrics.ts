import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from 'prom-client'
import type { Log, LogEvent } from '../mcp/log.ts'
import type { Measured, Meter } from '../mcp/meter.ts'
import { LATENCY_MS } from '../mcp/operator.ts'
import type { Activity, Busy } from '../mcp/session/onlooker.ts'

export interface MetricsOptions {
  readonly instance: string
  readonly version: string
  // Asked when Prometheus asks:
  readonly activity: () => Activity
  readonly isDraining: () => boolean
}

export interface Metrics {
  readonly meter: Meter
  /** `log`; what goes to it is counted. */
  readonly counted: (log: Log) => Log
  /** What Prometheus reads. */
  readonly text: () => Promise<{ text: string; contentType: string }>
}

/**
 * What Prometheus learns of one instance: each metric is a row in docs/monitoring.md. Clients choose
 * methods and may choose what goes wrong, so no label takes a value that is not known beforehand, or
 * more than a few others: the registry does not grow with what is sent.
 */
export function createMetrics(options: MetricsOptions): Metrics {
  const registry = new Registry()
  collectDefaultMetrics({ register: registry })
  addGauges(registry, options)
  const count = createEventCounter(registry)
  return {
    meter: createMeter(registry),
    counted: (log) => (event) => {
      count(event)
      log(event)
    },
    text: async () => ({ text: await registry.metrics(), contentType: registry.contentType }),
  }
}

const SECONDS = LATENCY_MS.map((ms) => ms / 1000)

// What revisions of the protocol have; any other is `other`.
const METHODS = new Set([
  'initialize',
  'ping',
  'server/discover',
  'tools/list',
  'tools/call',
  'resources/list',
  'resources/templates/list',
  'resources/read',
  'resources/subscribe',
  'resources/unsubscribe',
  'prompts/list',
  'prompts/get',
  'completion/complete',
  'logging/setLevel',
  'subscriptions/listen',
])

/** A call with its commit costs some 2 µs (`npm run bench:metering`). */
function createMeter(registry: Registry): Meter {
  const registers = [registry]
  // Counted here, as a labelled counter takes longer than all the rest, and handed over when asked for.
  const tallies = new Map<string, Tally>()
  const calls: Counter = new Counter({
    name: 'holdfast_calls_total',
    help: "Requests of clients that have their answer; outcome: ok, tool_error or an error's code",
    labelNames: ['method', 'tool', 'outcome'],
    registers,
    collect: () => {
      calls.reset()
      for (const { labels, count } of tallies.values()) calls.inc(labels, count)
    },
  })
  const duration = new Histogram({
    name: 'holdfast_call_duration_seconds',
    help: 'How long they took, tools by name',
    labelNames: ['tool'],
    buckets: SECONDS,
    registers,
  })
  const commits = new Counter({
    name: 'holdfast_commits_total',
    help: 'Atomic writes of a session to the store',
    registers,
  })
  const replays = new Counter({
    name: 'holdfast_replays_total',
    help: 'Calls that were sent again, and answered from their record',
    registers,
  })
  const outcomeOf = createBound()

  return (measured: Measured) => {
    switch (measured.kind) {
      case 'call': {
        const { tool = '', tookMs } = measured
        const method = METHODS.has(measured.method) ? measured.method : OTHER
        const outcome = outcomeOf(measured.outcome)
        const key = `${method} ${tool} ${outcome}`
        const tally = tallies.get(key) ?? { labels: { method, tool, outcome }, count: 0 }
        if (tally.count++ === 0) tallies.set(key, tally)
        duration.observe({ tool }, tookMs / 1000)
        break
      }
      case 'committed':
        commits.inc()
        break
      case 'replayed':
        replays.inc()
    }
  }
}

interface Tally {
  readonly labels: { readonly method: string; readonly tool: string; readonly outcome: string }
  count: number
}

/** Counts what is on record anyway. */
function createEventCounter(registry: Registry): (event: LogEvent) => void {
  const registers = [registry]
  const counter = <Label extends string = never>(
    name: string,
    help: string,
    ...labelNames: Label[]
  ) => new Counter({ name: `holdfast_${name}_total`, help, labelNames, registers })

  const opened = counter('sessions_opened', 'Sessions that were begun here')
  const ended = counter('sessions_ended', 'Sessions that were ended here', 'why')
  const restores = counter('restores', 'Sessions that were restored from the store')
  const restoreDuration = new Histogram({
    name: 'holdfast_restore_duration_seconds',
    help: 'How long that took',
    buckets: SECONDS,
    registers,
  })
  const takeovers = counter('takeovers', 'Calls that ran elsewhere and were gone on with here')
  const conflicts = counter('commit_conflicts', 'Commits that came too late and were made anew')
  const refusals = counter('refusals', "Requests that were refused, by the error's code", 'why')
  const failures = counter('failures', 'What went wrong behind a 500 or 503')
  const actions = counter('operator_actions', 'What operators had done', 'action')
  const whyOf = createBound()

  return (event) => {
    switch (event.event) {
      case 'session_opened':
        return opened.inc()
      case 'session_ended':
        return ended.inc({ why: event.why })
      case 'session_restored':
        restores.inc()
        return restoreDuration.observe(event.tookMs / 1000)
      case 'call_taken_over':
        return takeovers.inc()
      case 'commit_conflict':
        return conflicts.inc()
      case 'request_refused':
      case 'limit_hit':
        return refusals.inc({ why: whyOf(event.why) })
      case 'request_failed':
      case 'sdk_error':
        return failures.inc()
      case 'operator_ended_session':
        return actions.inc({ action: 'end' })
      case 'operator_drained':
        return actions.inc({ action: 'drain' })
      case 'operator_undrained':
        return actions.inc({ action: 'undrain' })
      case 'store_awaited':
      case 'started':
      case 'session_read':
      case 'call_retried':
      case 'stream_reopened':
    }
  }
}

function addGauges(registry: Registry, options: MetricsOptions): void {
  const { instance, version, activity, isDraining } = options
  const registers = [registry]
  const gauge = (name: string, help: string, valueNow: () => number): void => {
    const made: Gauge = new Gauge({
      name: `holdfast_${name}`,
      help,
      registers,
      collect: () => made.set(valueNow()),
    })
  }
  const sum = (what: keyof Busy): number =>
    [...activity().busy.values()].reduce((total, busy) => total + busy[what], 0)
  gauge('sessions_live', 'Sessions in memory', () => activity().held)
  gauge('streams_open', 'Streams that are followed', () => sum('streams'))
  gauge('calls_running', 'Calls that run', () => sum('running'))
  gauge('draining', '1 while it takes no more calls', () => Number(isDraining()))
  const info = new Gauge({
    name: 'holdfast_info',
    help: '1; its labels say which instance it is, and what it serves',
    labelNames: ['name', 'version'],
    registers,
  })
  info.set({ name: instance, version }, 1)
}

const OTHER = 'other'
const MOST_VALUES = 64

/** Lets the first values through, and calls all others by one name. */
function createBound(): (value: string) => string {
  const known = new Set<string>()
  return (value) => {
    if (known.has(value)) return value
    if (known.size >= MOST_VALUES) return OTHER
    known.add(value)
    return value
  }
}
