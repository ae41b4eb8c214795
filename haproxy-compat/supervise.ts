import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { openSync } from 'node:fs'

export interface Program {
  readonly name: string
  readonly command: string
  readonly args: readonly string[]
  readonly env: Record<string, string>
  /** What it prints is added to this file. */
  readonly logFile: string
  /** How long a stop may take before it is made to. */
  readonly stopMs: number
}

/** One program that is started again a second after it ended, as `restart: always` does. */
export class Supervised {
  readonly name: string
  readonly #program: Program
  readonly #changed: () => void
  #child: ChildProcess
  #stopping = false

  constructor(program: Program, changed: () => void) {
    this.name = program.name
    this.#program = program
    this.#changed = changed
    this.#child = this.#start()
  }

  /** `undefined` between its end and its next start. */
  get pid(): number | undefined {
    return isRunning(this.#child) ? this.#child.pid : undefined
  }

  async stop(): Promise<void> {
    this.#stopping = true
    if (!isRunning(this.#child)) return
    const exited = once(this.#child, 'exit')
    this.#child.kill('SIGTERM')
    const late = setTimeout(() => this.#child.kill('SIGKILL'), this.#program.stopMs)
    await exited
    clearTimeout(late)
  }

  #start(): ChildProcess {
    const { command, args, env, logFile } = this.#program
    const log = openSync(logFile, 'a')
    const child = spawn(command, args, {
      env: { ...process.env, ...env },
      stdio: ['ignore', log, log],
      // Ctrl-C is for the one who supervises: it stops the others in order.
      detached: true,
    })
    child.once('exit', (code, signal) => {
      this.#changed()
      if (this.#stopping) return
      console.log(`${this.name} ended (${signal ?? code}), starting it again in a second`)
      setTimeout(() => {
        if (this.#stopping) return
        this.#child = this.#start()
        this.#changed()
      }, RESTART_MS)
    })
    return child
  }
}

const RESTART_MS = 1000

function isRunning({ exitCode, signalCode }: ChildProcess): boolean {
  return exitCode === null && signalCode === null
}
