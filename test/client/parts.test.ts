import { describe, expect, it } from 'vitest'
import { backoffMs, retryAfterMs, RETRY_DEFAULTS } from '../../client/retry.ts'
import { encodeEvent, readEvents } from '../../client/sse.ts'
import { collect } from '../support/mcp.ts'

describe('backoff', () => {
  it('doubles up to its cap, and jitters in full', () => {
    const at = (attempt: number, part: number): number =>
      backoffMs(attempt, { ...RETRY_DEFAULTS, random: () => part })
    expect([0, 1, 2, 3, 4, 5, 50].map((attempt) => at(attempt, 1))).toEqual([
      20, 40, 80, 160, 320, 400, 400,
    ])
    expect(at(5, 0)).toBe(0)
    expect(at(5, 0.5)).toBe(200)
  })

  it('has a deadline of 15 s', () => expect(RETRY_DEFAULTS.deadlineMs).toBe(15_000))

  it.each([
    ['', 0],
    ['soon', 0],
    ['-3', 0],
    ['Thu, 01 Jan 1970 00:00:00 GMT', 0],
    ['7', 7000],
  ])('reads Retry-After: %j', (text, ms) => {
    const response = new Response(null, { headers: { 'retry-after': text } })
    expect(retryAfterMs(response, RETRY_DEFAULTS.clock)).toBe(ms)
  })
})

describe('events', () => {
  const TEXT =
    ': hello\n\nid: 1\nretry: 70\ndata:\n\nevent: message\nid: 2\ndata: a\ndata: ä b\n\ndata: cut'

  it.each(['\n', '\r\n', '\r'])(
    'are read whatever the line ends and the pieces: %j',
    async (end) => {
      const bytes = new TextEncoder().encode(TEXT.replaceAll('\n', end))
      for (let size = 1; size < bytes.length; size++) {
        const pieces = Array.from({ length: Math.ceil(bytes.length / size) }, (_, index) =>
          bytes.slice(index * size, (index + 1) * size),
        )
        expect(await collect(readEvents(streamOf(pieces)))).toEqual([
          { data: '' },
          { id: '1', data: '', retryMs: 70 },
          { id: '2', type: 'message', data: 'a\nä b' },
        ])
      }
    },
  )

  it.each(['a\nb', 'a\u2028b\u2029c'])('are written as they are read: %j', async (data) => {
    const event = { id: '2', type: 'message', data }
    expect(await collect(readEvents(streamOf([encodeEvent(event)])))).toEqual([event])
  })
})

function streamOf(pieces: Uint8Array[]): ReadableStream<Uint8Array> {
  return new ReadableStream({
    start(controller) {
      for (const piece of pieces) controller.enqueue(piece)
      controller.close()
    },
  })
}
