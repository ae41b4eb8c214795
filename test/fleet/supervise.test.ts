import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { supervise } from '../../haproxy-compat/supervise.ts'
import { startFleet } from '../support/fleet.ts'
import { callTool, openSession, until } from '../support/mcp.ts'

// Elsewhere there is no telling which files a process has open.
const OPEN_FILES = '/proc/self/fd'

describe('a program that is started again when it ends', () => {
  it.runIf(existsSync(OPEN_FILES))('leaves no file open in the one who supervises', async () => {
    const top = mkdtempSync(join(tmpdir(), 'holdfast-supervise-'))
    onTestFinished(() => rmSync(top, { recursive: true }))
    const folder = join(top, 'made', 'for it')
    const logFile = join(folder, 'log')
    const program = { name: 'echo', command: 'echo', args: ['started'], env: {}, stopMs: 1000 }
    const supervised = supervise({ ...program, folder, logFile }, () => undefined)
    onTestFinished(() => supervised.stop())
    await until(
      async () => readFileSync(logFile, 'utf8'),
      (text) => text.startsWith('started\nstarted\n'),
    )
    expect(openFiles()).not.toContain(logFile)
  })
})

describe('a program whose file is away', () => {
  it('is started again when it is back', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'holdfast-supervise-'))
    onTestFinished(() => rmSync(folder, { recursive: true }))
    const [command, logFile] = [join(folder, 'program'), join(folder, 'log')]
    const options = { name: 'program', command, args: [], env: {}, folder, logFile, stopMs: 1000 }
    const ended = Promise.withResolvers<void>()
    const supervised = supervise(options, ended.resolve)
    onTestFinished(() => supervised.stop())
    await ended.promise
    expect(supervised.pid()).toBeUndefined()
    writeFileSync(command, '#!/bin/sh\necho started\n', { mode: 0o755 })
    await until(
      async () => readFileSync(logFile, 'utf8'),
      (text) => text.startsWith('started\n'),
    )
  })
})

describe('a fleet whose folder is removed', () => {
  it('goes on, and has it again after a process of it was killed', async () => {
    const fleet = await startFleet()
    onTestFinished(async () => void (await fleet.stop()))
    await fleet.allAre('UP')
    const session = await openSession(fleet.fetch)
    await callTool(fleet.fetch, session, 'increment_counter')

    await removeAndKill('mcp-server-2')
    await fleet.allAre('UP')
    expect(await callTool(fleet.fetch, session, 'increment_counter')).toMatchObject({ counter: 2 })

    // What was in Redis is gone with the folder.
    await removeAndKill('redis')
    const anew = await until(
      () => openSession(fleet.fetch).catch(() => undefined),
      (id) => id !== undefined,
    )
    // The others may not have found it yet.
    const raised = await until(
      () => callTool(fleet.fetch, anew ?? '', 'increment_counter').catch(() => undefined),
      (answer) => answer !== undefined,
    )
    expect(raised).toMatchObject({ counter: 1 })

    /** Waits until `fleet.json` is there again and tells of another process. */
    async function removeAndKill(name: string): Promise<void> {
      const pid = fleet.pid(name)
      // Its processes may write there meanwhile.
      rmSync(fleet.folder, { recursive: true, maxRetries: 10 })
      process.kill(Number(pid), 'SIGKILL')
      const file = join(fleet.folder, 'fleet.json')
      await until(
        async () => (existsSync(file) ? fleet.pid(name) : null),
        (now) => now !== null && now !== pid,
      )
    }
  })
})

function openFiles(): string[] {
  return readdirSync(OPEN_FILES).flatMap((file) => {
    // Gone by now is the one that this listing took.
    const path = join(OPEN_FILES, file)
    return existsSync(path) ? [readlinkSync(path)] : []
  })
}
