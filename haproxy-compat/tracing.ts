import {
  context,
  propagation,
  ProxyTracerProvider,
  SpanKind,
  SpanStatusCode,
  trace,
  type Span,
  type SpanOptions,
  type TextMapGetter,
  type Tracer,
} from '@opentelemetry/api'
import { messageOf } from '../mcp/errors.ts'
import type { Pack, Tool } from '../mcp/session/tool.ts'

export interface Tracing {
  /** `serve`, with a span for each POST: until its answer begins. */
  readonly fetch: <Env>(serve: Serve<Env>) => Serve<Env>
  /** The same pack, with a span for each run of a tool. */
  readonly pack: (pack: Pack) => Pack
}

type Serve<Env> = (request: Request, env: Env) => Response | Promise<Response>

/**
 * Spans by OpenTelemetry, for who has an SDK registered before this is called (`docs/monitoring.md`).
 * Without one everything is as it was, and costs nothing.
 */
export function createTracing(instance: string): Tracing {
  const tracer = registeredTracer()
  if (tracer === undefined) return { fetch: (serve) => serve, pack: (pack) => pack }
  const attributes = { 'holdfast.instance': instance }
  return {
    fetch: (serve) => (request, env) => {
      if (request.method !== 'POST') return serve(request, env)
      const { pathname } = new URL(request.url)
      const options = {
        kind: SpanKind.SERVER,
        attributes: { ...attributes, 'http.request.method': 'POST', 'url.path': pathname },
      }
      const run = async (span: Span): Promise<Response> => {
        const response = await serve(request, env)
        span.setAttribute('http.response.status_code', response.status)
        if (response.status >= 500) span.setStatus({ code: SpanStatusCode.ERROR })
        return response
      }
      return context.with(parentOf(request), () => within(tracer, `POST ${pathname}`, options, run))
    },
    pack: (pack) => ({
      ...pack,
      tools: pack.tools.map((tool) => tracedTool(tool, tracer, attributes)),
    }),
  }
}

function tracedTool(tool: Tool, tracer: Tracer, common: SpanOptions['attributes']): Tool {
  const attributes = { ...common, 'mcp.method.name': 'tools/call', 'gen_ai.tool.name': tool.name }
  return {
    ...tool,
    run: (call, input) =>
      within(tracer, `tools/call ${tool.name}`, { attributes }, () => tool.run(call, input)),
  }
}

/** Runs `act` in a span, which ends with it. */
function within<T>(
  tracer: Tracer,
  name: string,
  options: SpanOptions,
  act: (span: Span) => Promise<T>,
): Promise<T> {
  return tracer.startActiveSpan(name, options, async (span) => {
    try {
      return await act(span)
    } catch (error) {
      span.setStatus({ code: SpanStatusCode.ERROR, message: messageOf(error) })
      throw error
    } finally {
      span.end()
    }
  })
}

/** The client's span, unless something of ours has one already. */
function parentOf({ headers }: Request) {
  const active = context.active()
  return trace.getSpan(active) === undefined
    ? propagation.extract(active, headers, ofHeaders)
    : active
}

const ofHeaders: TextMapGetter<Headers> = {
  keys: (headers) => [...headers.keys()],
  get: (headers, name) => headers.get(name) ?? undefined,
}

/** `undefined` if no SDK is there: the API would hand out one that does nothing, at a cost. */
function registeredTracer(): Tracer | undefined {
  const provider = trace.getTracerProvider()
  const isProxy = provider instanceof ProxyTracerProvider
  return isProxy ? provider.getDelegateTracer('holdfast') : provider.getTracer('holdfast')
}
