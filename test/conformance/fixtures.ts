/**
 * What the official conformance suites call, as a pack of its own: it is served only by the entry
 * beside it. Written straight on the SDK's server, as a user's existing server would be.
 */
import {
  completable,
  fromJsonSchema,
  ResourceTemplate,
  type CallToolResult,
  type ElicitRequestFormParams,
  type McpServer,
  type ServerContext,
} from '@modelcontextprotocol/server'
import * as z from 'zod'
import type { Pack } from '../../mcp/session/tool.ts'
import { AUDIO, IMAGE } from './media.ts'

export const fixtures: Pack = {
  name: 'holdfast-conformance',
  version: '0.0.0',
  tools: [],
  extend(server) {
    addContentTools(server)
    addStreamTools(server)
    addQuestionTools(server)
    addResources(server)
    addPrompts(server)
  },
}

const image = { type: 'image', data: IMAGE, mimeType: 'image/png' } as const

function addContentTools(server: McpServer): void {
  addTool(server, 'test_simple_text', () => text('This is a simple text response for testing.'))
  addTool(server, 'test_image_content', () => ({ content: [image] }))
  addTool(server, 'test_audio_content', () => ({
    content: [{ type: 'audio', data: AUDIO, mimeType: 'audio/wav' }],
  }))
  addTool(server, 'test_embedded_resource', () => ({
    content: [embedded('test://embedded-resource', 'This is an embedded resource content.')],
  }))
  addTool(server, 'test_multiple_content_types', () => ({
    content: [
      { type: 'text', text: 'Multiple content types test:' },
      image,
      embedded('test://mixed-content-resource', '{"test":"data","value":123}'),
    ],
  }))
  addTool(server, 'test_error_handling', () => {
    throw new Error('This tool intentionally returns an error for testing')
  })

  const inputSchema = fromJsonSchema({
    $schema: 'https://json-schema.org/draft/2020-12/schema',
    type: 'object',
    $defs: {
      address: {
        $anchor: 'addressDef',
        type: 'object',
        properties: { street: { type: 'string' }, city: { type: 'string' } },
      },
    },
    properties: {
      name: { type: 'string' },
      address: { $ref: '#/$defs/address' },
      contactMethod: { type: 'string', enum: ['phone', 'email'] },
      phone: { type: 'string' },
      email: { type: 'string' },
    },
    allOf: [{ anyOf: [{ required: ['phone'] }, { required: ['email'] }] }],
    if: { properties: { contactMethod: { const: 'phone' } }, required: ['contactMethod'] },
    then: { required: ['phone'] },
    else: { required: ['email'] },
    additionalProperties: false,
  })
  const description = 'Tool with JSON Schema 2020-12 features'
  server.registerTool('json_schema_2020_12_tool', { description, inputSchema }, () => text('ok'))
}

function addStreamTools(server: McpServer): void {
  addTool(server, 'test_tool_with_logging', async ({ mcpReq }) => {
    await mcpReq.log('info', 'Tool execution started')
    await pause()
    await mcpReq.log('info', 'Tool processing data')
    await pause()
    await mcpReq.log('info', 'Tool execution completed')
    return text('Done')
  })
  addTool(server, 'test_tool_with_progress', async ({ mcpReq }) => {
    const progressToken = mcpReq._meta?.progressToken ?? 0
    for (const progress of [0, 50, 100]) {
      const params = { progressToken, progress, total: 100 }
      await mcpReq.notify({ method: 'notifications/progress', params })
      await pause()
    }
    return text('Done')
  })
  addTool(server, 'test_reconnection', async ({ http }) => {
    // By now the client follows the stream; what comes next it must come back for.
    await pause()
    http?.closeSSE?.()
    await pause()
    return text('Reconnection test completed')
  })
}

function addQuestionTools(server: McpServer): void {
  const sampling = {
    description: 'Asks the client model',
    inputSchema: z.object({ prompt: z.string() }),
  }
  server.registerTool('test_sampling', sampling, async ({ prompt }, { mcpReq }) => {
    const messages = [{ role: 'user' as const, content: { type: 'text' as const, text: prompt } }]
    const { content } = await mcpReq.send({
      method: 'sampling/createMessage',
      params: { messages, maxTokens: 100 },
    })
    return text(`LLM response: ${JSON.stringify(content)}`)
  })

  const elicitation = {
    description: 'Asks the user',
    inputSchema: z.object({ message: z.string() }),
  }
  server.registerTool('test_elicitation', elicitation, ({ message }, ctx) =>
    ask(ctx, message, {
      type: 'object',
      properties: {
        username: { type: 'string', description: "User's response" },
        email: { type: 'string', description: "User's email address" },
      },
      required: ['username', 'email'],
    }),
  )
  addTool(server, 'test_elicitation_sep1034_defaults', (ctx) =>
    ask(ctx, 'Please review and update the form fields with defaults', {
      type: 'object',
      properties: {
        name: { type: 'string', default: 'John Doe' },
        age: { type: 'integer', default: 30 },
        score: { type: 'number', default: 95.5 },
        status: { type: 'string', enum: ['active', 'inactive', 'pending'], default: 'active' },
        verified: { type: 'boolean', default: true },
      },
    }),
  )
  addTool(server, 'test_elicitation_sep1330_enums', (ctx) =>
    ask(ctx, 'Please select options from the enum fields', {
      type: 'object',
      properties: {
        untitledSingle: { type: 'string', enum: ['option1', 'option2', 'option3'] },
        titledSingle: { type: 'string', oneOf: choices('Option') },
        legacyEnum: {
          type: 'string',
          enum: ['opt1', 'opt2', 'opt3'],
          enumNames: ['Option One', 'Option Two', 'Option Three'],
        },
        untitledMulti: {
          type: 'array',
          items: { type: 'string', enum: ['option1', 'option2', 'option3'] },
        },
        titledMulti: { type: 'array', items: { anyOf: choices('Choice') } },
      },
    }),
  )
}

function addResources(server: McpServer): void {
  const plain = { mimeType: 'text/plain' }
  server.registerResource('static-text', 'test://static-text', plain, ({ href }) => ({
    contents: [{ uri: href, ...plain, text: 'This is the content of the static text resource.' }],
  }))
  const png = { mimeType: 'image/png' }
  server.registerResource('static-binary', 'test://static-binary', png, ({ href }) => ({
    contents: [{ uri: href, ...png, blob: IMAGE }],
  }))
  server.registerResource('watched-resource', 'test://watched-resource', plain, ({ href }) => ({
    contents: [{ uri: href, ...plain, text: 'Watched resource content' }],
  }))
  const template = new ResourceTemplate('test://template/{id}/data', { list: undefined })
  const json = { mimeType: 'application/json' }
  server.registerResource('template', template, json, ({ href }, { id }) => {
    const content = { id, templateTest: true, data: `Data for ID: ${String(id)}` }
    return { contents: [{ uri: href, ...json, text: JSON.stringify(content) }] }
  })
}

function addPrompts(server: McpServer): void {
  server.registerPrompt('test_simple_prompt', { description: 'A simple prompt' }, () => ({
    messages: [said('This is a simple prompt for testing.')],
  }))
  const complete = (value: string) =>
    ['paris', 'park', 'party'].filter((word) => word.startsWith(value))
  const argsSchema = z.object({
    arg1: completable(z.string().describe('First test argument'), complete),
    arg2: z.string().describe('Second test argument'),
  })
  const two = { description: 'A prompt with two arguments', argsSchema }
  server.registerPrompt('test_prompt_with_arguments', two, ({ arg1, arg2 }) => ({
    messages: [said(`Prompt with arguments: arg1='${arg1}', arg2='${arg2}'`)],
  }))
  const resource = {
    description: 'A prompt with an embedded resource',
    argsSchema: z.object({ resourceUri: z.string() }),
  }
  server.registerPrompt('test_prompt_with_embedded_resource', resource, ({ resourceUri }) => ({
    messages: [
      { role: 'user', content: embedded(resourceUri, 'Embedded resource content for testing.') },
      said('Please process the embedded resource above.'),
    ],
  }))
  server.registerPrompt(
    'test_prompt_with_image',
    { description: 'A prompt with an image' },
    () => ({
      messages: [{ role: 'user', content: image }, said('Please analyze the image above.')],
    }),
  )
}

function addTool(
  server: McpServer,
  name: string,
  run: (ctx: ServerContext) => CallToolResult | Promise<CallToolResult>,
): void {
  server.registerTool(name, { description: `Conformance: ${name}` }, (ctx) => run(ctx))
}

async function ask(
  { mcpReq }: ServerContext,
  message: string,
  requestedSchema: ElicitRequestFormParams['requestedSchema'],
): Promise<CallToolResult> {
  const params = { mode: 'form' as const, message, requestedSchema }
  const { action, content } = await mcpReq.elicitInput(params, { relatedRequestId: mcpReq.id })
  return text(`Elicitation completed: action=${action}, content=${JSON.stringify(content)}`)
}

function text(words: string): CallToolResult {
  return { content: [{ type: 'text', text: words }] }
}

function said(words: string) {
  return { role: 'user' as const, content: { type: 'text' as const, text: words } }
}

function embedded(uri: string, words: string) {
  return { type: 'resource' as const, resource: { uri, mimeType: 'text/plain', text: words } }
}

function choices(kind: string): { const: string; title: string }[] {
  return ['First', 'Second', 'Third'].map((nth, index) => ({
    const: `value${index + 1}`,
    title: `${nth} ${kind}`,
  }))
}

function pause(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 50))
}
