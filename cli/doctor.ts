import { checkHaproxy } from './checks/haproxy.ts'
import { checkRedis } from './checks/redis.ts'
import { checkServer } from './checks/server.ts'
import { checkSettings } from './checks/settings.ts'
import { checkWorker } from './checks/worker.ts'
import { jsonText, plain, type Asked, type Terminal } from './command.ts'
import type { Finding } from './findings.ts'
import { coloured } from './table.ts'

/** Checks the server, and what is set in this environment; 1 if anything is wrong. */
export async function doctor({ operator, url, json, terminal }: Asked): Promise<number> {
  const { env, folder } = terminal
  const checked = { url, env, folder }
  const checks = [checkServer(operator), checkSettings, checkRedis, checkHaproxy, checkWorker]
  const findings: Finding[] = []
  for (const check of checks) {
    findings.push(...(await check(checked)))
  }
  const lines = findings.map((finding) => line(finding, terminal))
  terminal.print(json ? jsonText(findings, 2) : [...lines, summary(findings)].join('\n'))
  return count(findings, 'problem') > 0 ? 1 : 0
}

const COLOURS = { ok: 'green', warning: 'yellow', problem: 'red' } as const

function line({ kind, about, text }: Finding, terminal: Terminal): string {
  return `${coloured(COLOURS[kind], kind.padEnd(7), terminal)}  ${about.padEnd(9)}  ${plain(text)}`
}

function summary(findings: readonly Finding[]): string {
  const [problems, warnings] = [count(findings, 'problem'), count(findings, 'warning')]
  if (problems + warnings === 0) return 'All is well'
  return `${many(problems, 'problem')}, ${many(warnings, 'warning')}`
}

function count(findings: readonly Finding[], kind: Finding['kind']): number {
  return findings.filter((finding) => finding.kind === kind).length
}

function many(number: number, word: string): string {
  return `${number} ${word}${number === 1 ? '' : 's'}`
}
