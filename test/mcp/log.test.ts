import { expect, it } from 'vitest'
import { createLog } from '../../mcp/log.ts'

it('writes one line of JSON per event: when, where, what, with ids and principals cut', () => {
  const lines: string[] = []
  const log = createLog(
    (line) => lines.push(line),
    'mcp-server-1',
    () => 1_000,
  )
  log({
    event: 'session_opened',
    session: '0123456789abcdef',
    client: 'one\nline',
    principal: 'abcdefghijklmnop',
  })
  expect(lines).toEqual([
    '{"at":"1970-01-01T00:00:01.000Z","instance":"mcp-server-1","event":"session_opened",' +
      '"session":"01234567","client":"one\\nline","principal":"abcdefghijkl"}',
  ])
})

it('says the time that it is', () => {
  let line = ''
  createLog((text) => void (line = text), 'mcp-server-1')({ event: 'started', auth: 'none' })
  const { at } = JSON.parse(line) as { at: string }
  expect(Math.abs(Date.now() - Date.parse(at))).toBeLessThan(60_000)
})
