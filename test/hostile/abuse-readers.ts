import { connect } from 'node:net'
import { bare } from './inputs.ts'

/** A stream's client that has read its first event, and stops there. */
export interface Unread {
  /** Reads on until the server has ended the stream: all that has come, and when it came to an end. */
  readonly rest: () => Promise<Received>
  /** Resolves when the connection is gone, whoever has closed it. */
  readonly closed: Promise<unknown>
  readonly release: () => void
}

interface Received {
  readonly bytes: number
  /** Of the last whole event. */
  readonly lastEventId: string
  /** The numbers of the messages. */
  readonly numbers: readonly number[]
}

const LAST_CHUNK = '\r\n0\r\n\r\n'

export async function openUnread(port: number, session: string): Promise<Unread> {
  const socket = connect({ port, host: 'localhost' })
  const begun = Promise.withResolvers<void>()
  const over = Promise.withResolvers<void>()
  const closed = new Promise((resolve) => socket.once('close', resolve))
  let text = ''
  socket.setEncoding('latin1')
  socket.on('data', (chunk: string) => {
    text += chunk
    if (text.includes('\ndata:\n\n')) begun.resolve()
    if (text.endsWith(LAST_CHUNK)) over.resolve()
  })
  socket.on('error', () => undefined)
  socket.once('close', () => over.resolve())
  socket.write(bare('GET')({ own: session }))
  await begun.promise
  socket.pause()
  return {
    closed,
    async rest() {
      socket.resume()
      await over.promise
      return receivedIn(text)
    },
    release: () => socket.destroy(),
  }
}

function receivedIn(text: string): Received {
  // Chunks may begin and end anywhere. Between them are the only CRLFs.
  const events = text.slice(text.indexOf('\r\n\r\n') + 2).replaceAll(/\r\n[0-9a-f]+\r\n/gi, '')
  const whole = [
    ...events.matchAll(/id: (\S+)\n(?:event: message\n)?(?:data: .*?"data":"(\d+) )?/g),
  ]
  const ended = whole.filter(({ index }) => events.indexOf('\n\n', index) > 0)
  return {
    bytes: text.length,
    lastEventId: ended.at(-1)?.[1] ?? '',
    numbers: ended.flatMap(([, , number]) => (number === undefined ? [] : [Number(number)])),
  }
}
