import { ServerError, tooLarge } from '../errors.ts'

// A byte order mark is kept, for the JSON parser to refuse.
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** The body as text. Throws `body_too_large`, and `parse_error` for what is not UTF-8. */
export async function readBody(request: Request, maxBytes: number): Promise<string> {
  if (Number(request.headers.get('content-length') ?? 0) > maxBytes) throw tooLarge(maxBytes)
  // Where the length was told the runtime has checked it: one read, and no stream in between.
  const told = request.headers.has('content-length')
  const bytes = told
    ? new Uint8Array(await request.arrayBuffer())
    : await readBytes(request.body, maxBytes)
  try {
    return decoder.decode(bytes)
  } catch {
    throw new ServerError('parse_error', 'Cannot read message: it is not UTF-8')
  }
}

/** All of a body. Throws `body_too_large`. */
export async function readBytes(
  body: Request['body'],
  maxBytes: number,
): Promise<Uint8Array<ArrayBuffer>> {
  if (body === null) return new Uint8Array()
  const chunks: Uint8Array[] = []
  let size = 0
  for await (const chunk of body) {
    size += chunk.byteLength
    if (size > maxBytes) throw tooLarge(maxBytes)
    chunks.push(chunk)
  }
  return joined(chunks, size)
}

function joined(chunks: readonly Uint8Array[], size: number): Uint8Array<ArrayBuffer> {
  const all = new Uint8Array(size)
  let at = 0
  for (const chunk of chunks) {
    all.set(chunk, at)
    at += chunk.byteLength
  }
  return all
}
