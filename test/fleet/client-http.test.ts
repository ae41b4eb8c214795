import { readFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startFleet, type Fleet } from '../support/fleet.ts'
import { TOOL_NAMES } from '../support/mcp.ts'

interface Part {
  readonly name: string
  readonly method: string
  readonly url: string
  readonly headers: readonly [string, string][]
  readonly body: string
}

/** It asks the user, which an editor can't. */
const CANNOT_ASK = 'clearNotes'

describe('client.http', () => {
  const { variables, parts } = parse(readFileSync('client.http', 'utf8'))
  const answers = new Map<string, { headers: Headers; text: string }>()
  let fleet: Fleet

  beforeAll(async () => {
    fleet = await startFleet()
  })
  afterAll(() => fleet.stop())

  it('asks the fleet at its usual address', () => {
    expect(variables.get('base')).toBe('http://localhost:8080')
  })

  it('walks through all tools', () => {
    const called = parts.flatMap(({ body }) => {
      const [, tool] = /"tools\/call",\s+"params": \{\s+"name": "(\w+)"/.exec(body) ?? []
      return tool ?? []
    })
    expect(called.toSorted()).toEqual(TOOL_NAMES.toSorted())
  })

  it.each(parts)('$name is answered', async ({ name, method, url, headers, body }) => {
    const init = {
      method,
      headers: headers.map(([key, value]): [string, string] => [key, filled(value)]),
      ...(body !== '' && { body: filled(body) }),
    }
    const response = await fetch(filled(url), init)
    const text = await response.text()
    answers.set(name, { headers: response.headers, text })
    expect({ ok: response.ok, text }).toEqual({ ok: true, text })
    expect(text).not.toContain('"error":')
    expect(text.includes('"isError":true')).toBe(name === CANNOT_ASK)
  })

  it('has done what it says', () => {
    const text = (name: string): string => answers.get(name)?.text ?? ''
    expect(text('listNotes')).toContain('"notes":["from client.http"]')
    expect(text('getCounter')).toContain('"counter":1')
    expect(text(CANNOT_ASK)).toContain('Client does not support form elicitation')
    expect(text('analyze').match(/notifications\/message/g)).toHaveLength(7)
    expect(text('analyze').match(/notifications\/progress/g)).toHaveLength(4)
    expect(text('watch')).toContain('"total_changes":0')
    expect(text('serverInfo')).toContain('"sessions":1')
    expect(text('status')).toContain('"active_sessions":1')
    expect(text('summary')).toMatch(/"counter\\": 1\b.*from client\.http.*"items_processed\\": 3/)
    expect(text('resume')).toContain('"keys_copied":3')
  })

  /** `text` with its variables replaced, and those that they name in turn. */
  function filled(text: string): string {
    return text.replaceAll(/\{\{([^{}]+)\}\}/g, (whole, name: string) => {
      if (name === 'base') return fleet.map().haproxy.url
      const value = variables.get(name)
      if (value !== undefined) return filled(value)
      const [, part = '', header = ''] = /^(\w+)\.response\.headers\.([\w-]+)$/.exec(name) ?? []
      const found = answers.get(part)?.headers.get(header)
      if (found === undefined || found === null) throw new Error(`Nothing is known of ${whole}`)
      return found
    })
  }
})

/** Parts are set apart by `###`; lines with `#` are comments, and `# @name` names the part. */
function parse(file: string): { variables: Map<string, string>; parts: Part[] } {
  const [head = '', ...blocks] = file.split(/^###.*\n/m)
  const variables = [...head.matchAll(/^@(\w+) = (.*)$/gm)].map(
    ([, name = '', value = '']): [string, string] => [name, value],
  )
  return { variables: new Map(variables), parts: blocks.map(parsePart) }
}

function parsePart(block: string): Part {
  const [, name = ''] = /^# @name (\w+)$/m.exec(block) ?? []
  const [head = '', ...bodies] = block
    .replaceAll(/^#.*\n/gm, '')
    .trim()
    .split('\n\n')
  const [line = '', ...lines] = head.split('\n')
  const [method = '', url = ''] = line.split(' ')
  const headers = lines.map((text): [string, string] => {
    const [key = '', ...value] = text.split(': ')
    return [key, value.join(': ')]
  })
  return { name, method, url, headers, body: bodies.join('\n\n') }
}
