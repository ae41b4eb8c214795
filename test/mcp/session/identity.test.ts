import { describe, expect, it } from 'vitest'
import * as z from 'zod'
import { defineTool } from '../../../mcp/session/tool.ts'
import { createLocalApp } from '../../support/local-app.ts'
import { openSession, rpc, until, type RpcReply } from '../../support/mcp.ts'
import { addOne, n } from '../../support/rounds.ts'

const add = defineTool({
  name: 'add',
  description: 'Adds to the counter',
  input: z.object({ by: z.coerce.number().default(1), note: z.string().optional() }),
  async run(call, { by }) {
    const state = await call.update((old) => ({
      ...old,
      counter: Number(old['counter'] ?? 0) + by,
    }))
    return { counter: state['counter'] ?? 0 }
  },
})

describe('a call that comes again under its idempotency key', () => {
  const app = createLocalApp({ pack: { name: 'test', version: '1', tools: [add] } })

  async function calls(...all: object[]): Promise<RpcReply[]> {
    const session = await openSession(app.fetch)
    const replies: RpcReply[] = []
    for (const args of all) {
      const params = { name: 'add', arguments: args, idempotencyKey: 'k' }
      replies.push(
        await rpc(app.fetch, session, { jsonrpc: '2.0', id: 1, method: 'tools/call', params }),
      )
    }
    return replies
  }

  it.each([
    ['in another order', { by: 2, note: 'n' }, { note: 'n', by: 2 }],
    ['spelled otherwise', { by: 2 }, { by: '2' }],
    ['left to their defaults', { by: 1 }, {}],
  ])('is the same call with its arguments %s', async (_how, first, second) => {
    const [one, other] = await calls(first, second)
    expect(one?.result?.structuredContent).toEqual({ counter: first.by })
    expect(other?.result).toEqual(one?.result)
  })

  it('is in conflict with other arguments, valid or not', async () => {
    for (const others of [{ by: 3 }, { by: 2, note: 'n' }, { by: 'x' }]) {
      const [, second, first] = await calls({ by: 2 }, others, { by: 2 })
      expect(second?.error?.data?.type).toBe('idempotency_key_conflict')
      expect(first?.result?.structuredContent).toEqual({ counter: 2 })
    }
  })

  it.each([
    ['a big integer', z.string().transform((text) => BigInt(text)), '1', '2'],
    ['a set', z.string().transform((text) => new Set([text])), '1', '2'],
    ['a date', z.coerce.date(), '2026-01-01', '2026-01-02'],
  ])('is told by what was given where a schema makes it %s', async (_what, at, first, second) => {
    const one = defineTool({
      name: 'one',
      description: 'Adds one',
      input: z.object({ at }),
      run: async (call) => ({ n: n.get(await call.update(addOne)) }),
    })
    const { fetch } = createLocalApp({ pack: { tools: [one] } })
    const session = await openSession(fetch)
    const call = (given: string): Promise<RpcReply> => {
      const params = { name: 'one', arguments: { at: given }, idempotencyKey: 'k' }
      return rpc(fetch, session, { jsonrpc: '2.0', id: 1, method: 'tools/call', params })
    }
    const [once, other, again] = [await call(first), await call(second), await call(first)]
    expect(once.result?.structuredContent).toEqual({ n: 1 })
    expect(other.error?.data?.type).toBe('idempotency_key_conflict')
    expect(again.result).toEqual(once.result)
  })

  it('joins the one that runs, which runs once', async () => {
    let runs = 0
    const gate = Promise.withResolvers<void>()
    const slow = defineTool({
      name: 'slow',
      description: 'Waits until it may go on',
      input: z.object({ by: z.number() }),
      async run() {
        runs++
        await gate.promise
        return { runs }
      },
    })
    const { fetch } = createLocalApp({ pack: { name: 'test', version: '1', tools: [slow] } })
    const session = await openSession(fetch)
    const call = (by: number): Promise<RpcReply> => {
      const params = { name: 'slow', arguments: { by }, idempotencyKey: 'k' }
      return rpc(fetch, session, { jsonrpc: '2.0', id: 1, method: 'tools/call', params })
    }
    const first = call(1)
    await until(
      async () => runs,
      (all) => all === 1,
    )
    const second = call(1)
    expect((await call(2)).error?.data?.type).toBe('idempotency_key_conflict')
    gate.resolve()
    const replies = await Promise.all([first, second])
    expect(replies.map(({ result }) => result?.structuredContent)).toEqual([
      { runs: 1 },
      { runs: 1 },
    ])
  })
})
