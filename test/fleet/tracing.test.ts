import { AsyncLocalStorage } from 'node:async_hooks'
import {
  context,
  propagation,
  ROOT_CONTEXT,
  SpanKind,
  SpanStatusCode,
  trace,
  TraceFlags,
  type Context,
  type ContextManager,
  type TextMapPropagator,
} from '@opentelemetry/api'
import {
  BasicTracerProvider,
  InMemorySpanExporter,
  SimpleSpanProcessor,
  type ReadableSpan,
} from '@opentelemetry/sdk-trace-base'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import * as z from 'zod'
import { createNodeServer, type NodeServer } from '../../haproxy-compat/serve-node.ts'
import { createTracing } from '../../haproxy-compat/tracing.ts'
import { defineTool } from '../../mcp/session/tool.ts'
import { tools } from '../../mcp/tools/index.ts'
import { fetchFrom } from '../support/fleet.ts'
import { callTool, openSession, post, rpc, toolCall, until, type Fetch } from '../support/mcp.ts'

const TRACE = '0af7651916cd43dd8448eb211c80319c'
const PARENT = 'b7ad6b7169203331'

const broken = defineTool({
  name: 'broken',
  description: 'Fails.',
  input: z.strictObject({}),
  run: () => Promise.reject(new Error('It is broken')),
})

it('changes nothing where no SDK is registered', () => {
  const serve = (): Response => new Response()
  const { fetch, pack } = createTracing('node-1')
  expect(fetch(serve)).toBe(serve)
  expect(pack(tools)).toBe(tools)
})

describe('with an SDK', () => {
  const exporter = new InMemorySpanExporter()
  let server: NodeServer
  let plain: Fetch

  beforeAll(async () => {
    const spanProcessors = [new SimpleSpanProcessor(exporter)]
    trace.setGlobalTracerProvider(new BasicTracerProvider({ spanProcessors }))
    context.setGlobalContextManager(createContexts())
    propagation.setGlobalPropagator(traceparent)
    server = await createNodeServer({
      ...tools,
      tools: [...tools.tools, broken],
      settings: { PORT: '0', DRAIN_SECONDS: '0' },
      write: () => undefined,
    })
    plain = fetchFrom(server.url)
  })
  afterEach(() => exporter.reset())
  afterAll(async () => {
    await server.close()
    trace.disable()
    context.disable()
    propagation.disable()
  })

  const traced: Fetch = (request) => {
    request.headers.set('traceparent', `00-${TRACE}-${PARENT}-01`)
    return plain(request)
  }
  /** The spans of that name, when there are any. */
  const spans = (name: string): Promise<ReadableSpan[]> =>
    until(
      async () => exporter.getFinishedSpans().filter((span) => span.name === name),
      (found) => found.length > 0,
    )

  it('has a span for each POST below its client’s, and one for each tool below that', async () => {
    const session = await openSession(plain)
    exporter.reset()
    await callTool(traced, session, 'increment_counter')
    const [served] = await spans('POST /mcp')
    const [run] = await spans('tools/call increment_counter')
    expect(served?.spanContext().traceId).toBe(TRACE)
    expect(served?.parentSpanContext).toMatchObject({ spanId: PARENT, isRemote: true })
    expect(served?.kind).toBe(SpanKind.SERVER)
    expect(served?.attributes).toEqual({
      'holdfast.instance': 'node-1',
      'http.request.method': 'POST',
      'http.response.status_code': 200,
      'url.path': '/mcp',
    })
    expect(run?.spanContext().traceId).toBe(TRACE)
    expect(run?.parentSpanContext?.spanId).toBe(served?.spanContext().spanId)
    expect(run?.attributes).toEqual({
      'holdfast.instance': 'node-1',
      'mcp.method.name': 'tools/call',
      'gen_ai.tool.name': 'increment_counter',
    })
    expect(exporter.getFinishedSpans()).toHaveLength(2)
  })

  it('keeps a tool below its POST that has begun to answer before', async () => {
    const session = await openSession(plain)
    exporter.reset()
    await callTool(traced, session, 'analyze_data', { num_items: 1 })
    const [served] = await spans('POST /mcp')
    const [run] = await spans('tools/call analyze_data')
    expect(run?.parentSpanContext?.spanId).toBe(served?.spanContext().spanId)
    expect(Number(run?.endTime[0]) + Number(run?.endTime[1]) / 1e9).toBeGreaterThan(
      Number(served?.endTime[0]) + Number(served?.endTime[1]) / 1e9,
    )
  })

  it('begins a trace where its client has none, and says what went wrong', async () => {
    const session = await openSession(plain)
    exporter.reset()
    await rpc(plain, session, toolCall('broken'))
    const [run] = await spans('tools/call broken')
    expect(run?.status).toEqual({ code: SpanStatusCode.ERROR, message: 'It is broken' })
    const [served] = await spans('POST /mcp')
    expect(served?.parentSpanContext).toBeUndefined()
    expect(served?.spanContext().traceId).not.toBe(TRACE)
  })

  it('has none for what is no POST', async () => {
    await (await fetch(new URL('/live', server.url))).text()
    await (await plain(post('{', { 'mcp-session-id': 'made-up' }))).text()
    await spans('POST /mcp')
    expect(exporter.getFinishedSpans()).toHaveLength(1)
  })
})

/** What an SDK for Node registers: the context of asynchronous work. */
function createContexts(): ContextManager {
  const storage = new AsyncLocalStorage<Context>()
  const contexts: ContextManager = {
    active: () => storage.getStore() ?? ROOT_CONTEXT,
    with: (given, act, self, ...args) => storage.run(given, () => act.apply(self, args)),
    bind: (_given, target) => target,
    enable: () => contexts,
    disable: () => contexts,
  }
  return contexts
}

/** And the header of W3C's. */
const traceparent: TextMapPropagator = {
  fields: () => ['traceparent'],
  inject: () => undefined,
  extract(given, carrier, getter) {
    const text = String(getter.get(carrier, 'traceparent'))
    const [, traceId, spanId] = /^00-([0-9a-f]{32})-([0-9a-f]{16})-01$/.exec(text) ?? []
    if (traceId === undefined || spanId === undefined) return given
    const remote = { traceId, spanId, traceFlags: TraceFlags.SAMPLED, isRemote: true }
    return trace.setSpanContext(given, remote)
  },
}
