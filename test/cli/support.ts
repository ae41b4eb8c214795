import { run } from '../../cli/run.ts'

export interface Ran {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

export type Env = Readonly<Record<string, string>>

/** What somebody at a terminal gets who has set nothing but `env`; in `out` as it comes. */
export async function holdfast(
  args: readonly string[],
  env: Env = {},
  out: string[] = [],
): Promise<Ran> {
  const err: string[] = []
  const code = await run([...args], {
    env: { PATH: process.env['PATH'], ...env },
    folder: '/',
    print: (text) => out.push(`${text}\n`),
    complain: (text) => err.push(`${text}\n`),
    hasColours: false,
  })
  return { code, stdout: out.join(''), stderr: err.join('') }
}
