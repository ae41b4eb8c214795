/** What clients that mean harm send, and what every topology answers. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { ARGUMENTS, ARGUMENT_STORIES } from './inputs-arguments.ts'
import { CONCURRENCY } from './inputs-concurrency.ts'
import { FRAMING, FRAMING_STORIES } from './inputs-framing.ts'
import { JSON_STORIES, JSON_TEXT, MEDIA, ORIGIN } from './inputs-messages.ts'
import { PROTOCOL, PROTOCOL_STORIES } from './inputs-protocol.ts'
import { SESSION_ID, SESSION_STORIES } from './inputs-session-ids.ts'
import { STREAMS, STREAM_STORIES } from './inputs-streams.ts'
import { outcomeOf, sendTo, type InputRow, type StoryRow } from './inputs.ts'
import { secretsIn, setScene, snapshotOf, type Scene, type Snapshot } from './snapshot.ts'
import { START, TOPOLOGIES } from './topologies.ts'

const INPUTS: Readonly<Record<string, readonly InputRow[]>> = {
  framing: FRAMING,
  'origin and host': ORIGIN,
  'media types': MEDIA,
  JSON: JSON_TEXT,
  protocol: PROTOCOL,
  'session ids': SESSION_ID,
  streams: STREAMS,
  arguments: ARGUMENTS,
}
const STORIES: Readonly<Record<string, readonly StoryRow[]>> = {
  framing: FRAMING_STORIES,
  JSON: JSON_STORIES,
  protocol: PROTOCOL_STORIES,
  'session ids': SESSION_STORIES,
  streams: STREAM_STORIES,
  concurrency: CONCURRENCY,
  arguments: ARGUMENT_STORIES,
}
const ROWS = [...Object.values(INPUTS), ...Object.values(STORIES)].flat().length

describe.each(TOPOLOGIES)('hostile input: %s', (name) => {
  let scene: Scene
  let known: Snapshot
  let rows = 0

  beforeAll(async () => {
    scene = await setScene(await START[name]())
    known = await snapshotOf(scene)
  })
  afterAll(() => scene.stop())

  describe.each(Object.entries(INPUTS))('%s', (_section, inputs) => {
    it.each(inputs)('$row: $what', async ({ send, answer, on, opens }) => {
      const wanted = on?.[name] ?? answer
      const given = await sendTo(scene, await send(scene))
      rows++
      const change = await changeSince(opens)
      expect(outcomeOf(given, wanted)).toEqual(wanted)
      expect(given.more).toBe(false)
      if (given.status !== 200 || wanted.isError) expect(secretsIn(scene, given.body)).toEqual([])
      expect(change.after).toEqual(change.before)
    })
  })

  describe.each(Object.entries(STORIES))('%s, in several steps', (_section, stories) => {
    it.each(stories)('$row: $what', async ({ plays, gives, on, opens }) => {
      rows++
      const given = await plays(scene)
      const change = await changeSince(opens)
      expect(given).toEqual(on !== undefined && name in on ? on[name] : gives)
      expect(change.after).toEqual(change.before)
    })
  })

  it('has logged no id and no note', () => {
    const logs = scene.logged()
    // Where the output is not at hand the same code has written it.
    expect(logs === undefined).toBe(name !== 'fleet')
    expect(secretsIn(scene, logs ?? '')).toEqual([])
  })

  it(`was sent all ${ROWS} rows`, () => {
    expect(rows).toBe(ROWS)
  })

  /** What was there before, and what is now: the next row begins from there, whatever this one did. */
  async function changeSince(opens: boolean = false) {
    const before = known
    known = await snapshotOf(scene)
    return { before, after: opens ? { ...known, all: before.all } : known }
  }
})
