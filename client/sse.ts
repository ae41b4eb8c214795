/** One event of a stream. `data` is empty in an event that only says where the stream is. */
export interface SseEvent {
  readonly id?: string
  readonly type?: string
  readonly data: string
  /** How long the server wants us to wait before we resume. */
  readonly retryMs?: number
}

/** The events of `body` as they come. Throws if it breaks; leaving the loop cancels it. */
export async function* readEvents(body: ReadableStream<Uint8Array>): AsyncGenerator<SseEvent> {
  const decoder = new TextDecoder()
  let text = ''
  for await (const chunk of body) {
    text += decoder.decode(chunk, { stream: true })
    // A CR at the end may be half of a CRLF: it waits for what comes next.
    const end = text.endsWith('\r') ? text.length - 1 : text.length
    const blocks = text.slice(0, end).replaceAll(/\r\n?/g, '\n').split('\n\n')
    text = (blocks.pop() ?? '') + text.slice(end)
    for (const block of blocks) yield parseEvent(block)
  }
}

export function encodeEvent({ id, type, data }: SseEvent): Uint8Array {
  const lines = data.split('\n').map((line) => `data: ${line}\n`)
  if (type !== undefined) lines.unshift(`event: ${type}\n`)
  if (id !== undefined) lines.unshift(`id: ${id}\n`)
  return new TextEncoder().encode(`${lines.join('')}\n`)
}

export function isStream({ headers, body }: Response): boolean {
  const [type = ''] = (headers.get('content-type') ?? '').split(';')
  return body !== null && type.trim().toLowerCase() === 'text/event-stream'
}

function parseEvent(block: string): SseEvent {
  const fields = new Map<string, string[]>()
  for (const line of block.split('\n')) {
    const [, name = '', value = ''] = /^([^:]*):? ?(.*)$/s.exec(line) ?? []
    fields.set(name, [...(fields.get(name) ?? []), value])
  }
  const [id, type, retry] = ['id', 'event', 'retry'].map((name) => fields.get(name)?.at(-1))
  return {
    data: (fields.get('data') ?? []).join('\n'),
    ...(id && { id }),
    ...(type && { type }),
    ...(retry && /^[0-9]+$/.test(retry) && { retryMs: Number(retry) }),
  }
}
