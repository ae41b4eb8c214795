import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, mkdirSync, openSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { messageOf } from '../mcp/errors.ts'

export interface Program {
  readonly name: string
  readonly command: string
  readonly args: readonly string[]
  readonly env: Record<string, string>
  /** What it needs to be there when it starts: made anew if somebody has removed it. */
  readonly folder: string
  /** What it prints is added to this file, in `folder` or above. */
  readonly logFile: string
  /** How long a stop may take before it is made to. */
  readonly stopMs: number
}

export type Supervised = ReturnType<typeof supervise>

/** One program that is started again a second after it ended, as `restart: always` does. */
export function supervise(program: Program, changed: () => void) {
  let child = start(program)
  let stopping = false

  async function keep(): Promise<void> {
    for (;;) {
      const why = await endOf(child)
      changed()
      if (stopping) return
      const { name, logFile } = program
      console.log(`${name} ended (${why}, see ${logFile}): starting it again in a second`)
      await sleep(RESTART_MS)
      if (stopping) return
      child = start(program)
      changed()
    }
  }
  void keep()

  return {
    /** `undefined` between its end and its next start. */
    pid: (): number | undefined => (isRunning(child) ? child.pid : undefined),

    async stop(): Promise<void> {
      stopping = true
      if (!isRunning(child)) return
      const exited = once(child, 'exit')
      child.kill('SIGTERM')
      const late = setTimeout(() => child.kill('SIGKILL'), program.stopMs)
      await exited
      clearTimeout(late)
    },
  }
}

const RESTART_MS = 1000

function start({ command, args, env, folder, logFile }: Program): ChildProcess {
  mkdirSync(folder, { recursive: true })
  const log = openSync(logFile, 'a')
  const child = spawn(command, args, {
    env: { ...process.env, ...env },
    stdio: ['ignore', log, log],
    // Ctrl-C is for the one who supervises: it stops the others in order.
    detached: true,
  })
  closeSync(log)
  return child
}

/** Why it has ended. What could not be started has, too: its file may be away while it is upgraded. */
async function endOf(child: ChildProcess): Promise<string> {
  try {
    const [code, signal] = await once(child, 'exit')
    return String(signal ?? code)
  } catch (error) {
    return messageOf(error)
  }
}

function isRunning({ pid, exitCode, signalCode }: ChildProcess): boolean {
  return pid !== undefined && exitCode === null && signalCode === null
}
