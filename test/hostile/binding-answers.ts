import { isStream } from '../support/mcp.ts'

/** All of an answer that its client can see, with `id` as a name for it. */
export interface WholeAnswer {
  readonly status: number
  readonly headers: readonly (readonly [string, string])[]
  readonly body: string
}

const STREAM_MS = 2000

/** A stream that stays open is read for a while: there is none where there is nothing to hear. */
export async function wholeAnswer(
  response: Response,
  ids: readonly string[],
): Promise<WholeAnswer> {
  const body = isStream(response) ? await readFor(response, STREAM_MS) : await response.text()
  const named = ids.reduce((text, id) => text.replaceAll(id, '<id>'), body)
  // In the order of their names.
  const headers = [...response.headers].filter(([name]) => name !== 'date')
  return { status: response.status, headers, body: named }
}

async function readFor(response: Response, ms: number): Promise<string> {
  if (response.body === null) return ''
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader()
  const timer = setTimeout(() => void reader.cancel(), ms)
  let text = ''
  for (;;) {
    const { value, done } = await reader.read()
    if (done) break
    text += value
  }
  clearTimeout(timer)
  return text
}
