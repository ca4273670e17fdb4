import type { Call, Script } from '../upstream.ts';
import { sse } from '../upstream.ts';

/**
 * Upstreams that enforce the rules of today's APIs: what the real ones refuse is a 400 here. Each answers like a model
 * that knows the weather:
 *
 * - tools, and no result yet: a tool call, with the state that the provider wants back
 * - a tool result: a sentence, if the state came back as it was
 * - a JSON format: a JSON text
 * - a document: its first characters
 * - anything else: a greeting
 */

// biome-ignore lint/suspicious/noExplicitAny: bodies of five APIs
type Body = any;

export interface StrictUpstream {
  /** Type of the provider. */
  readonly type: string;
  readonly model: string;
  /** Path behind the address of the upstream. */
  readonly path: string;
  /** False if the provider has no documents. */
  readonly hasFiles: boolean;
  readonly script: Script;
}

const CITY = '{"city":"Oslo"}';
const JSON_ANSWER = '{"city":"Oslo","degrees":7}';
const WEATHER = 'It is 7 degrees in Oslo.';
export const TEXTS = { json: JSON_ANSWER, weather: WEATHER, hello: 'Hello.' };

class Refusal extends Error {}

/** @throws Refusal, which the upstream answers with 400 */
function require(condition: unknown, rule: string): asserts condition {
  if (!condition) throw new Refusal(rule);
}

function answerBy(answer: (body: Body, call: Call) => string, contentType = 'text/event-stream'): Script {
  return (call) => {
    try {
      const bytes = answer(JSON.parse(call.body), call);
      if (contentType === 'text/event-stream') sse(call.response).end(bytes);
      else call.response.writeHead(200, { 'content-type': contentType }).end(bytes);
    } catch (error) {
      const message = error instanceof Refusal ? error.message : `broken test: ${String(error)}`;
      const body = { error: { message, type: 'invalid_request_error', code: 'strict' } };
      call.response.writeHead(400, { 'content-type': 'application/json' }).end(JSON.stringify(body));
    }
  };
}

const events = (...list: object[]) => list.map((event) => `data: ${JSON.stringify(event)}\n\n`).join('');
const named = (...list: { type: string }[]) =>
  list.map((event) => `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`).join('');
const sample = (url: string) => `Document ${url.slice(url.indexOf(',') + 1).slice(0, 8)}`;

/** OpenAI's Responses API with a reasoning model. */
const openai: StrictUpstream = {
  type: 'openai',
  model: 'gpt-5.6',
  path: '/v1',
  hasFiles: true,
  script: answerBy((body, { request }) => {
    require(request.url === '/v1/responses', 'tools are not on Chat Completions');
    require(body.store === false && body.stream === true, 'store and stream');
    require(body.temperature === undefined && body.top_p === undefined, "Unsupported parameter: 'temperature'");
    require(body.max_tokens === undefined && body.messages === undefined, 'names of Chat Completions');
    require(body.include?.includes('reasoning.encrypted_content'), 'no encrypted reasoning asked for');
    for (const tool of body.tools ?? []) require(tool.type === 'function' && tool.name, 'tools are flat');
    const items = body.input as Body[];
    for (const [i, item] of items.entries()) {
      if (item.type !== 'function_call' && item.type !== 'function_call_output') continue;
      require(item.call_id.length <= 64, 'call_id is too long');
      if (item.type === 'function_call' && item.call_id === 'call_openai') {
        const before = items[i - 1];
        require(before?.type === 'reasoning' && before.encrypted_content === 'OPENAI-STATE', 'reasoning is missing');
      }
    }
    const outputs = items.filter(({ type }) => type === 'function_call_output').map(({ call_id: id }) => id);
    const calls = items.filter(({ type }) => type === 'function_call').map(({ call_id: id }) => id);
    require(JSON.stringify(outputs) === JSON.stringify(calls), 'each call has its output');
    const completed = (output: object[]) => ({ type: 'response.completed', response: { status: 'completed', output } });
    const text = (delta: string) =>
      named({ type: 'response.created' }, { type: 'response.output_text.delta', delta } as never, completed([]));
    const file = items.flatMap(({ content }) => content).find((part) => part?.type === 'input_file');
    if (file) return text(sample(file.file_data));
    if (body.text?.format) {
      require(body.text.format.type === 'json_schema' && body.text.format.schema, 'the format is flat');
      return text(JSON_ANSWER);
    }
    if (outputs.length > 0) return text(WEATHER);
    if (!body.tools) return text('Hello.');
    const reasoning = { type: 'reasoning', id: 'rs_1', summary: [], encrypted_content: 'OPENAI-STATE' };
    const call = { type: 'function_call', id: 'fc_1', call_id: 'call_openai', name: 'weather' };
    const delta = { item_id: 'fc_1', output_index: 1, delta: CITY };
    return named(
      { type: 'response.created' },
      { type: 'response.output_item.added', output_index: 0, item: { ...reasoning, encrypted_content: '' } } as never,
      { type: 'response.output_item.done', output_index: 0, item: reasoning } as never,
      { type: 'response.output_item.added', output_index: 1, item: { ...call, arguments: '' } } as never,
      { type: 'response.function_call_arguments.delta', ...delta } as never,
      { type: 'response.output_item.done', output_index: 1, item: { ...call, arguments: CITY } } as never,
      completed([reasoning, { ...call, arguments: CITY }]),
    );
  }),
};

/** Anthropic's Messages API with a model of 2026. */
const anthropic: StrictUpstream = {
  type: 'anthropic',
  model: 'claude-opus-4-8',
  path: '/v1',
  hasFiles: true,
  script: answerBy((body) => {
    for (const name of ['temperature', 'top_p', 'top_k']) require(body[name] === undefined, `${name} is deprecated`);
    require(body.max_tokens >= 8_192, 'max_tokens would cut the answer');
    const isThinking = body.thinking !== undefined && body.thinking.type !== 'disabled';
    if (isThinking) require(body.thinking.type === 'adaptive', 'only adaptive thinking');
    const blocks = (body.messages as Body[]).flatMap(({ content }) => content as Body[]);
    for (const { type, id, tool_use_id: used } of blocks) {
      if (type === 'tool_use') require(/^[a-zA-Z0-9_-]{1,64}$/.test(id), 'tool_use.id: String should match pattern');
      if (type === 'tool_result')
        require(/^[a-zA-Z0-9_-]{1,64}$/.test(used), 'tool_use_id: String should match pattern');
    }
    const ids = blocks.filter(({ type }) => type === 'tool_use').map(({ id }) => id);
    const results = blocks.filter(({ type }) => type === 'tool_result').map((block) => block.tool_use_id);
    require(JSON.stringify(ids) === JSON.stringify(results), 'each tool_use has its tool_result');
    for (const [i, block] of blocks.entries()) {
      if (block.type !== 'tool_use' || block.id !== 'toolu_1') continue;
      const thinking = { type: 'thinking', thinking: 'Weather.', signature: 'ANTHROPIC-STATE' };
      require(JSON.stringify(blocks[i - 1]) === JSON.stringify(thinking), 'the thinking block must come back');
    }
    const start = { type: 'message_start', message: { usage: { input_tokens: 1, output_tokens: 1 } } };
    const end = (reason: string) => [
      { type: 'message_delta', delta: { stop_reason: reason }, usage: { output_tokens: 9 } },
      { type: 'message_stop' },
    ];
    const text = (words: string) =>
      named(
        start,
        { type: 'content_block_start', index: 0, content_block: { type: 'text', text: '' } } as never,
        { type: 'content_block_delta', index: 0, delta: { type: 'text_delta', text: words } } as never,
        { type: 'content_block_stop', index: 0 } as never,
        ...end('end_turn'),
      );
    const document = blocks.find(({ type }) => type === 'document');
    if (document) return text(sample(`,${document.source.data}`));
    if (body.output_config?.format) {
      const { type, schema } = body.output_config.format;
      require(type === 'json_schema' && schema.additionalProperties === false, 'additionalProperties must be false');
      return text(JSON_ANSWER);
    }
    if (results.length > 0) return text(WEATHER);
    if (!body.tools) return text('Hello.');
    return named(
      start,
      {
        type: 'content_block_start',
        index: 0,
        content_block: { type: 'thinking', thinking: '', signature: '' },
      } as never,
      { type: 'content_block_delta', index: 0, delta: { type: 'thinking_delta', thinking: 'Weather.' } } as never,
      {
        type: 'content_block_delta',
        index: 0,
        delta: { type: 'signature_delta', signature: 'ANTHROPIC-STATE' },
      } as never,
      { type: 'content_block_stop', index: 0 } as never,
      {
        type: 'content_block_start',
        index: 1,
        content_block: { type: 'tool_use', id: 'toolu_1', name: 'weather', input: {} },
      } as never,
      { type: 'content_block_delta', index: 1, delta: { type: 'input_json_delta', partial_json: CITY } } as never,
      { type: 'content_block_stop', index: 1 } as never,
      ...end('tool_use'),
    );
  }),
};

/** The Gemini API with a model that thinks. */
const gemini: StrictUpstream = {
  type: 'gemini',
  model: 'gemini-3-pro',
  path: '/v1beta',
  hasFiles: true,
  script: answerBy((body) => {
    const parts = (body.contents as Body[]).flatMap((content) => content.parts as Body[]);
    const calls = parts.filter(({ functionCall }) => functionCall);
    for (const { functionCall, thoughtSignature } of calls) {
      const isOwn = functionCall.args.city === 'Oslo' && functionCall.name === 'weather';
      require(isOwn && thoughtSignature, 'Function call is missing a thought_signature');
      const known = ['GEMINI-STATE', 'skip_thought_signature_validator'];
      require(known.includes(thoughtSignature), 'Corrupted thought signature');
    }
    const results = parts.filter(({ functionResponse }) => functionResponse);
    require(results.length === calls.length, 'each function call has its response');
    const chunk = (part: object) =>
      events({
        candidates: [{ content: { parts: [part] }, finishReason: 'STOP' }],
        usageMetadata: { totalTokenCount: 1 },
      });
    const document = parts.find(({ inlineData }) => inlineData?.mimeType === 'application/pdf');
    if (document) return chunk({ text: sample(`,${document.inlineData.data}`) });
    const config = body.generationConfig ?? {};
    if (config.responseMimeType !== undefined) {
      require(config.responseMimeType === 'application/json' && config.responseJsonSchema, 'the schema is missing');
      return chunk({ text: JSON_ANSWER });
    }
    if (results.length > 0) return chunk({ text: WEATHER });
    if (!body.tools) return chunk({ text: 'Hello.' });
    return chunk({ functionCall: { name: 'weather', args: JSON.parse(CITY) }, thoughtSignature: 'GEMINI-STATE' });
  }),
};

const ollama: StrictUpstream = {
  type: 'ollama',
  model: 'qwen3',
  path: '',
  hasFiles: false,
  script: answerBy((body) => {
    const line = (message: object) =>
      `${JSON.stringify({ message: { role: 'assistant', content: '', ...message }, done: false })}\n${JSON.stringify({ message: { content: '' }, done: true, done_reason: 'stop' })}\n`;
    for (const { content } of body.messages) require(typeof content === 'string', 'content is a string');
    if (body.format !== undefined) {
      require(body.format.type === 'object', 'format is the schema');
      return line({ content: JSON_ANSWER });
    }
    if (body.messages.some(({ role }: Body) => role === 'tool')) return line({ content: WEATHER });
    if (!body.tools) return line({ content: 'Hello.' });
    return line({ tool_calls: [{ function: { name: 'weather', arguments: JSON.parse(CITY) } }] });
  }, 'application/x-ndjson'),
};

/** Gemini 3 through OpenRouter. */
const openrouter: StrictUpstream = {
  type: 'openrouter',
  model: 'google/gemini-3-pro',
  path: '/v1',
  hasFiles: true,
  script: answerBy((body) => {
    const details = [
      { type: 'reasoning.text', text: 'Weather.', format: 'google-gemini-v1', index: 0 },
      { type: 'reasoning.encrypted', data: 'OPENROUTER-STATE', id: 'tool_1', format: 'google-gemini-v1', index: 1 },
    ];
    const chunk = (delta: object, finish: string | null = null) => ({
      object: 'chat.completion.chunk',
      choices: [{ index: 0, delta, finish_reason: finish }],
    });
    const text = (content: string) => `${events(chunk({ content }), chunk({}, 'stop'))}data: [DONE]\n\n`;
    for (const message of body.messages) {
      const call = message.tool_calls?.[0];
      if (call?.id !== 'tool_1') continue;
      const isWhole = JSON.stringify(message.reasoning_details) === JSON.stringify(details);
      require(isWhole, 'Gemini models require OpenRouter reasoning details to be preserved in each request');
      require(call.extra_content?.google?.thought_signature === 'S', 'extra_content must be preserved');
    }
    const parts = body.messages.flatMap(({ content }: Body) => (Array.isArray(content) ? content : []));
    const file = parts.find(({ type }: Body) => type === 'file');
    if (file) return text(sample(file.file.file_data));
    if (body.response_format) {
      require(body.response_format.json_schema?.schema, 'the schema is missing');
      return text(JSON_ANSWER);
    }
    if (body.messages.some(({ role }: Body) => role === 'tool')) return text(WEATHER);
    if (!body.tools) return text('Hello.');
    const call = { index: 0, id: 'tool_1', type: 'function', function: { name: 'weather', arguments: CITY } };
    const [thought, encrypted] = details;
    return `${events(
      chunk({ reasoning: 'Weather.', reasoning_details: [{ ...thought, text: 'Wea' }] }),
      chunk({ reasoning_details: [{ ...thought, text: 'ther.' }] }),
      chunk({ reasoning_details: [encrypted] }),
      chunk({ tool_calls: [{ ...call, extra_content: { google: { thought_signature: 'S' } } }] }),
      chunk({}, 'tool_calls'),
    )}data: [DONE]\n\n`;
  }),
};

export const STRICT_UPSTREAMS: readonly StrictUpstream[] = [openai, anthropic, gemini, ollama, openrouter];
