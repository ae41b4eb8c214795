import { afterAll, beforeAll, expect, it } from 'vitest'
import { startFleet, type Fleet } from '../support/fleet.ts'
import { callTool, openSession, until } from '../support/mcp.ts'
import { holdfast, type Env, type Ran } from './support.ts'

let fleet: Fleet
let env: Env

beforeAll(async () => {
  fleet = await startFleet()
  await fleet.allAre('UP')
  env = { HOLDFAST_URL: fleet.map().haproxy.url }
})
afterAll(() => fleet?.stop())

const ask = (line: string): Promise<Ran> => holdfast(line.split(' '), env)

interface Shown {
  readonly name: string
  readonly id: string
  readonly holder: string
  readonly calls: number
}

/** The session with that id, when it has been told of. */
async function shown(id: string, isAsWanted: (one: Shown) => boolean = () => true): Promise<Shown> {
  const look = async (): Promise<Shown | undefined> => {
    const { latest } = JSON.parse((await ask('sessions list --json')).stdout) as { latest: Shown[] }
    return latest.find((session) => id.startsWith(session.id))
  }
  const session = await until(look, (found) => found !== undefined && isAsWanted(found))
  if (session === undefined) throw new Error('No session')
  return session
}

it('lists a session, shows it, follows it and ends it', async () => {
  const id = await openSession(fleet.fetch)
  const { instance } = await callTool(fleet.fetch, id, 'increment_counter')
  const { name, holder } = await shown(id, ({ calls }) => calls === 1)
  expect(holder).toBe(instance)
  const { stdout } = await ask(`sessions show ${name.slice(0, 8)}`)
  expect(stdout).toMatch(new RegExp(`^session +${name}$`, 'm'))
  expect(stdout).not.toContain(id)

  const heard: string[] = []
  const followed = holdfast(['sessions', 'follow', name], env, heard)
  // It is followed from when the server says so, which is some time from now.
  await until(
    () => callTool(fleet.fetch, id, 'increment_counter'),
    () => heard.length > 0,
  )
  const end = { code: 0, stdout: `Ended ${name}\n` }
  expect(await ask(`sessions end ${name}`)).toMatchObject(end)
  const { code, stdout: told } = await followed
  expect(code).toBe(0)
  expect(told).toMatch(/Z {2}changed {2}version \d+\n/)
  expect(told).toMatch(/Z {2}ended\n$/)
  expect((await ask(`sessions end ${name}`)).stderr).toContain('There is no session')
})

it('lists the instances, drains one, and has it take calls again', async () => {
  const id = await openSession(fleet.fetch)
  const { instance } = await callTool(fleet.fetch, id, 'increment_counter')
  const stateIs = (state: string) => async (): Promise<boolean> =>
    new RegExp(`^${String(instance)} +${state} `, 'm').test((await ask('instance list')).stdout)
  await until(stateIs('ready'), Boolean)
  expect((await ask(`instance drain ${String(instance)}`)).code).toBe(0)
  await until(stateIs('draining'), Boolean)
  await until(fleet.servers, (all) => all.some(({ status }) => status.startsWith('DOWN')))
  const moved = await callTool(fleet.fetch, id, 'increment_counter')
  expect(moved).toMatchObject({ counter: 2 })
  expect(moved['instance']).not.toBe(instance)
  expect((await ask(`instance undrain ${String(instance)}`)).code).toBe(0)
  await until(stateIs('ready'), Boolean)
  await fleet.allAre('UP')
})

it('finds a fleet in order', async () => {
  const { redis } = fleet.map()
  const { code, stdout } = await holdfast(['doctor'], {
    ...env,
    REDIS_URL: redis.url,
    SESSION_SECRET: 'a secret of some length',
  })
  expect({ code, stdout }).toEqual({ code: 0, stdout: expect.stringMatching(/\nAll is well\n$/) })
  expect(stdout).toMatch(/^ok {7}server {5}\d+ sessions; ready instances: 3$/m)
})
