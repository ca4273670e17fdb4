import fc from 'fast-check';
import t, { type Test } from 'tap';
import { PROVIDER_TYPES } from '../../providers/registry.ts';
import type { ChatRequest, StreamPart } from '../../providers/types.ts';
import { createPartBuffer } from '../../providers/wire/parts.ts';
import { isReasoningModel, responsesBody } from '../../providers/wire/responses-body.ts';
import { createResponsesDecoder } from '../../providers/wire/responses-stream.ts';
import { type Script, startUpstream } from '../upstream.ts';
import { add, type Collected, collect, empty } from './collect.ts';
import { OPTIONS } from './options.ts';

/** Tests OpenAI's Responses API as an upstream: the body of a request, and the decoder of an answer. */

const USER = { role: 'user', content: 'q' } as const;
const PDF = 'data:application/pdf;base64,JVBERi0=';
const SCHEMA = { type: 'object', properties: {} };
const INCLUDE = { include: ['reasoning.encrypted_content'] };

function bodyOf(request: Partial<ChatRequest>, reasoningSummaries = true): Record<string, unknown> {
  return responsesBody({ model: 'm', messages: [USER], ...request }, { reasoningSummaries });
}

const BODIES: [name: string, request: Partial<ChatRequest>, fields: Record<string, unknown>][] = [
  ['the smallest request', {}, {}],
  ['a minimum of output tokens', { maxTokens: 3 }, { max_output_tokens: 16 }],
  ['output tokens', { maxTokens: 64 }, { max_output_tokens: 64 }],
  ['sampling of a model that is unknown', { temperature: 0.5, topP: 0.9 }, { temperature: 0.5, top_p: 0.9 }],
  ['no sampling of a reasoning model', { model: 'o3', temperature: 0.5, topP: 0.9 }, { model: 'o3', ...INCLUDE }],
  [
    'sampling without reasoning',
    { model: 'gpt-5.2', temperature: 0.5, options: { reasoning_effort: 'none' } },
    { model: 'gpt-5.2', temperature: 0.5, reasoning: { effort: 'none' } },
  ],
  ['effort', { options: { reasoning_effort: 'low' } }, { reasoning: { effort: 'low', summary: 'auto' }, ...INCLUDE }],
  [
    'the summary that the client wants',
    { options: { reasoning: { effort: 'high', summary: 'detailed' } } },
    { reasoning: { effort: 'high', summary: 'detailed' }, ...INCLUDE },
  ],
  ...([1_024, 8_000, 40_000] as const).map((budget_tokens, i): (typeof BODIES)[number] => [
    `a budget of ${budget_tokens}`,
    { options: { thinking: { type: 'enabled', budget_tokens } } },
    { reasoning: { effort: ['low', 'medium', 'high'][i], summary: 'auto' }, ...INCLUDE },
  ]),
  ['reasoning by flag', { options: { enable_thinking: false } }, { reasoning: { effort: 'none' } }],
  [
    'tools',
    {
      tools: [{ name: 'f', description: 'd', parameters: SCHEMA, strict: true }, { name: 'g' }],
      toolChoice: { name: 'f' },
    },
    {
      tools: [
        { type: 'function', name: 'f', description: 'd', parameters: SCHEMA, strict: true },
        { type: 'function', name: 'g', parameters: SCHEMA, strict: false },
      ],
      tool_choice: { type: 'function', name: 'f' },
    },
  ],
  [
    'parallel tool calls',
    { tools: [{ name: 'g' }], toolChoice: 'required', options: { parallel_tool_calls: false } },
    {
      tools: [{ type: 'function', name: 'g', parameters: SCHEMA, strict: false }],
      tool_choice: 'required',
      parallel_tool_calls: false,
    },
  ],
  ['JSON', { options: { response_format: { type: 'json_object' } } }, { text: { format: { type: 'json_object' } } }],
  [
    'a JSON schema, and verbosity',
    {
      options: {
        response_format: { type: 'json_schema', json_schema: { name: 'n', schema: SCHEMA, strict: true } },
        verbosity: 'low',
      },
    },
    { text: { format: { type: 'json_schema', name: 'n', schema: SCHEMA, strict: true }, verbosity: 'low' } },
  ],
  [
    'options of the same name, and no others',
    { options: { user: 'u', metadata: { a: 'b' }, service_tier: 'flex', prompt_cache_key: 'k', seed: 1, store: true } },
    { user: 'u', metadata: { a: 'b' }, service_tier: 'flex', prompt_cache_key: 'k' },
  ],
  ['forwarded options', { options: { top_k: 4 }, forward: ['top_k'] }, { top_k: 4 }],
  [
    'system and text in their order',
    { messages: [USER, { role: 'system', content: 's' }, { role: 'assistant', content: 'a' }] },
    {
      input: [USER, { role: 'system', content: 's' }, { role: 'assistant', content: 'a' }],
    },
  ],
  [
    'images and files',
    {
      messages: [
        {
          role: 'user',
          content: [
            { type: 'text', text: 't' },
            { type: 'image', url: 'https://x.example/a.png', detail: 'low' },
            { type: 'file', url: PDF, mimeType: 'application/pdf' },
            { type: 'file', url: 'https://x.example/a.pdf', mimeType: 'application/pdf' },
          ],
        },
      ],
    },
    {
      input: [
        {
          role: 'user',
          content: [
            { type: 'input_text', text: 't' },
            { type: 'input_image', image_url: 'https://x.example/a.png', detail: 'low' },
            { type: 'input_file', filename: 'file.pdf', file_data: PDF },
            { type: 'input_file', file_url: 'https://x.example/a.pdf' },
          ],
        },
      ],
    },
  ],
  [
    'tool calls with encrypted reasoning before its call',
    {
      messages: [
        {
          role: 'assistant',
          content: '',
          toolCalls: [
            { id: 'a', name: 'f', arguments: '' },
            { id: 'b', name: 'g', arguments: '{"x":1}' },
          ],
          state: {
            provider: 'p',
            details: [
              { type: 'reasoning.encrypted', format: 'openai-responses-v1', id: 'rs_1', data: 'E', before: 1 },
              { type: 'reasoning.text', format: 'anthropic-claude-v1', text: 'no' },
            ],
          },
        },
        { role: 'tool', toolCallId: 'a', name: 'f', content: 'r' },
      ],
    },
    {
      input: [
        { type: 'function_call', call_id: 'a', name: 'f', arguments: '{}' },
        { type: 'reasoning', id: 'rs_1', summary: [], encrypted_content: 'E' },
        { type: 'function_call', call_id: 'b', name: 'g', arguments: '{"x":1}' },
        { type: 'function_call_output', call_id: 'a', output: 'r' },
      ],
    },
  ],
];

t.test('every field of a request has its place in the body', async (t) => {
  for (const [name, request, fields] of BODIES) {
    t.same(bodyOf(request), { model: 'm', input: [USER], stream: true, store: false, ...fields }, name);
  }
  t.same(bodyOf({ options: { reasoning_effort: 'low' } }, false).reasoning, { effort: 'low' }, 'no summary');
  const long = 'c'.repeat(65);
  const { input } = bodyOf({
    messages: [
      { role: 'assistant', content: '', toolCalls: [{ id: long, name: 'f', arguments: '{}' }] },
      { role: 'tool', toolCallId: long, name: 'f', content: 'r' },
    ],
  });
  const [call, result] = input as { call_id: string }[];
  t.equal(call?.call_id.length, 24, 'a long id is replaced');
  t.equal(call?.call_id, result?.call_id, 'in the call and in its result');
});

t.test('reasoning models are known by name', async (t) => {
  for (const name of ['o1', 'o3-mini', 'o4-mini', 'gpt-5', 'gpt-5.2-pro', 'gpt-6', 'gpt-10', 'openai/gpt-5.1']) {
    t.ok(isReasoningModel(name), name);
  }
  for (const name of ['gpt-4o', 'gpt-4.1', 'gpt-5-chat-latest', 'gpt-oss-120b', 'qwen3', 'foo3', 'llama']) {
    t.notOk(isReasoningModel(name), name);
  }
});

const sse = (...events: { type?: string }[]) =>
  events.map((data) => `event: ${data.type}\ndata: ${JSON.stringify(data)}\n\n`).join('');
const created = { type: 'response.created', response: { id: 'resp_1', status: 'in_progress', error: null } };
const USAGE = {
  input_tokens: 10,
  input_tokens_details: { cached_tokens: 4 },
  output_tokens: 20,
  output_tokens_details: { reasoning_tokens: 8 },
  total_tokens: 30,
};
const completed = (output: object[] = [], extra: object = {}) => ({
  type: 'response.completed',
  response: { object: 'response', status: 'completed', error: null, output, usage: USAGE, ...extra },
});
const item = (event: 'added' | 'done', output_index: number, fields: object) => ({
  type: `response.output_item.${event}`,
  output_index,
  item: fields,
});
const at = (type: string, item_id: string, output_index: number, fields: object) => ({
  type: `response.${type}`,
  item_id,
  output_index,
  ...fields,
});
const message = (id: string, ...texts: string[]) => ({
  type: 'message',
  id,
  role: 'assistant',
  content: texts.map((text) => ({ type: 'output_text', text, annotations: [] })),
});
const call = (n: number, args: string) => ({
  type: 'function_call',
  id: `fc_${n}`,
  call_id: `call_${n}`,
  name: `f${n}`,
  arguments: args,
});
const reasoning = (n: number, ...texts: string[]) => ({
  type: 'reasoning',
  id: `rs_${n}`,
  summary: texts.map((text) => ({ type: 'summary_text', text })),
  encrypted_content: `E${n}`,
});
const argumentsDelta = (n: number, index: number, delta: string) =>
  at('function_call_arguments.delta', `fc_${n}`, index, { delta });
const textDelta = (delta: string, id = 'msg_1', index = 0) =>
  at('output_text.delta', id, index, { content_index: 0, delta });

/** Every event type that can occur without built-in tools. */
const FULL = [
  created,
  { type: 'response.queued', response: {} },
  { type: 'response.in_progress', response: {} },
  item('added', 0, { type: 'reasoning', id: 'rs_1', summary: [] }),
  at('reasoning_summary_part.added', 'rs_1', 0, { summary_index: 0, part: { type: 'summary_text', text: '' } }),
  at('reasoning_summary_text.delta', 'rs_1', 0, { summary_index: 0, delta: 'Think' }),
  at('reasoning_summary_text.delta', 'rs_1', 0, { summary_index: 0, delta: 'ing' }),
  at('reasoning_summary_text.done', 'rs_1', 0, { summary_index: 0, text: 'Thinking' }),
  at('reasoning_summary_part.done', 'rs_1', 0, { summary_index: 0, part: { type: 'summary_text', text: 'Thinking' } }),
  at('reasoning_summary_text.delta', 'rs_1', 0, { summary_index: 1, delta: 'More 🤔' }),
  item('done', 0, reasoning(1, 'Thinking', 'More 🤔')),
  item('added', 1, message('msg_1')),
  at('content_part.added', 'msg_1', 1, { content_index: 0, part: { type: 'output_text', text: '' } }),
  textDelta('Hel', 'msg_1', 1),
  textDelta('lo 🌍', 'msg_1', 1),
  at('output_text.annotation.added', 'msg_1', 1, { annotation: {} }),
  at('output_text.done', 'msg_1', 1, { content_index: 0, text: 'Hello 🌍' }),
  at('content_part.done', 'msg_1', 1, { content_index: 0, part: { type: 'output_text', text: 'Hello 🌍' } }),
  item('done', 1, message('msg_1', 'Hello 🌍')),
  item('added', 2, call(1, '')),
  item('added', 3, call(2, '')),
  argumentsDelta(1, 2, '{"a"'),
  argumentsDelta(2, 3, '{"b"'),
  argumentsDelta(1, 2, ':1}'),
  argumentsDelta(2, 3, ':2}'),
  at('function_call_arguments.done', 'fc_1', 2, { name: 'f1', arguments: '{"a":1}' }),
  at('function_call_arguments.done', 'fc_2', 3, { name: 'f2', arguments: '{"b":2}' }),
  item('done', 2, call(1, '{"a":1}')),
  item('done', 3, call(2, '{"b":2}')),
  completed([
    reasoning(1, 'Thinking', 'More 🤔'),
    message('msg_1', 'Hello 🌍'),
    call(1, '{"a":1}'),
    call(2, '{"b":2}'),
  ]),
];
const CALLS = [
  { id: 'call_1', name: 'f1', arguments: '{"a":1}' },
  { id: 'call_2', name: 'f2', arguments: '{"b":2}' },
];
const FULL_ANSWER = {
  text: 'Hello 🌍',
  reasoning: 'Thinking\n\nMore 🤔',
  toolCalls: CALLS,
  finish: {
    type: 'finish',
    reason: 'tool_calls',
    rawReason: 'completed',
    usage: { inputTokens: 10, outputTokens: 20, totalTokens: 30, reasoningTokens: 8, cachedTokens: 4 },
    state: {
      details: [{ type: 'reasoning.encrypted', format: 'openai-responses-v1', id: 'rs_1', data: 'E1', before: 0 }],
    },
  },
  error: undefined,
};

/** Decodes pieces without a connection. */
function decode(pieces: readonly Uint8Array[]): Collected {
  const collected = empty();
  const parts = createPartBuffer();
  const decoder = createResponsesDecoder(parts);
  const take = (taken: readonly StreamPart[]) => {
    for (const part of taken) add(collected, part);
  };
  try {
    for (const piece of pieces) {
      if (!decoder.done) decoder.push(piece);
      take(parts.take());
    }
    if (!decoder.done) decoder.end();
    const finish = decoder.finish();
    take(parts.flush());
    take([finish]);
  } catch (error) {
    take(parts.flush());
    collected.error = error;
  }
  return collected;
}

const decodeText = (text: string) => decode([Buffer.from(text)]);

t.test('a stream with every event is read, in any cut', async (t) => {
  const bytes = Buffer.from(sse(...FULL));
  t.same(decode([bytes]), FULL_ANSWER, 'in whole');
  t.same(decode([...bytes].map((_, i) => bytes.subarray(i, i + 1))), FULL_ANSWER, 'byte by byte');
  fc.assert(
    fc.property(fc.array(fc.nat(bytes.length), { maxLength: 30 }), (cuts) => {
      const places = [0, ...cuts.sort((a, b) => a - b), bytes.length];
      const pieces = places.slice(1).map((end, i) => bytes.subarray(places[i], end));
      t.strictSame(decode(pieces), FULL_ANSWER);
    }),
    { numRuns: 100 },
  );
});

const READ: [name: string, stream: string, expected: object][] = [
  ['only `output_text.done`', sse(at('output_text.done', 'm', 0, { text: 'x' }), completed()), { text: 'x' }],
  ['only `output_item.done`', sse(item('done', 0, message('m', 'x')), completed()), { text: 'x' }],
  ['only the response at the end', sse(completed([message('m', 'x', 'y')])), { text: 'xy' }],
  [
    'a whole response',
    JSON.stringify(completed([message('m', 'x'), call(1, '{"a":1}')]).response),
    { text: 'x', toolCalls: [CALLS[0]] },
  ],
  ['[DONE] behind the end', `${sse(textDelta('x'), completed())}data: [DONE]\n\n`, { text: 'x' }],
  [
    'ids that change',
    sse(textDelta('x', 'a'), textDelta('y', 'b'), item('done', 0, message('c', 'xy')), completed([message('d', 'xy')])),
    { text: 'xy' },
  ],
  [
    'only `output_item.done` of a call',
    sse(item('done', 0, call(1, '{"a":1}')), completed()),
    { toolCalls: [CALLS[0]] },
  ],
  [
    'all arguments in the first event',
    sse(item('added', 0, call(1, '{"a":1}')), completed()),
    { toolCalls: [CALLS[0]] },
  ],
  [
    'all arguments in every event',
    sse(
      item('added', 0, call(1, '{"a":1}')),
      argumentsDelta(1, 0, '{"a":1}'),
      at('function_call_arguments.done', 'fc_1', 0, { arguments: '{"a":1}' }),
      item('done', 0, call(1, '{"a":1}')),
      completed([call(1, '{"a":1}')]),
    ),
    { toolCalls: [CALLS[0]] },
  ],
  [
    'calls at the same output index',
    sse(
      item('done', 0, call(1, '{"a":1}')),
      item('done', 0, call(2, '{"b":2}')),
      completed([call(1, '{"a":1}'), call(2, '{"b":2}')]),
    ),
    { toolCalls: CALLS },
  ],
  [
    'reasoning as it is',
    sse(at('reasoning_text.delta', 'r', 0, { content_index: 0, delta: 'hm' }), completed()),
    { reasoning: 'hm' },
  ],
  [
    'a refusal',
    sse(at('refusal.delta', 'm', 0, { delta: 'No.' }), at('refusal.done', 'm', 0, { refusal: 'No.' }), completed()),
    { text: 'No.', finish: { reason: 'stop' } },
  ],
  [
    'encrypted reasoning without a call',
    sse(item('done', 0, reasoning(1, 'hm')), completed()),
    { reasoning: 'hm', finish: { reason: 'stop', state: undefined } },
  ],
  [
    'a call of a built-in tool',
    sse(item('added', 0, { type: 'web_search_call' }), { type: 'keepalive' }, textDelta('x', 'm', 1), completed()),
    { text: 'x' },
  ],
  ...(
    [
      ['max_output_tokens', 'length'],
      ['content_filter', 'content_filter'],
    ] as const
  ).flatMap(([raw, reason]): typeof READ => {
    const response = { status: 'incomplete', incomplete_details: { reason: raw } };
    const expected = { text: 'x', finish: { reason, rawReason: raw } };
    return [
      [
        `incomplete: ${raw}`,
        sse(textDelta('x'), { ...completed([], response), type: 'response.incomplete' }),
        expected,
      ],
      [`completed, but incomplete: ${raw}`, sse(textDelta('x'), completed([], response)), expected],
    ];
  }),
];

t.test('each form of an answer is delivered once', async (t) => {
  for (const [name, stream, expected] of READ) {
    const played = decodeText(stream);
    t.equal(played.error, undefined, `${name}: no error`);
    t.match(
      { ...played, finish: { state: undefined, ...played.finish } },
      { reasoning: '', text: '', toolCalls: [], ...expected },
      name,
    );
    t.equal(played.toolCalls.length, (expected as { toolCalls?: [] }).toolCalls?.length ?? 0, `${name}: calls`);
  }
});

const FAILURES: [name: string, events: object[], error: object][] = [
  [
    'failed',
    [{ type: 'response.failed', response: { status: 'failed', error: { code: 'rate_limit_exceeded', message: 'm' } } }],
    { code: 'upstream_error', reason: 'rate_limited' },
  ],
  ['cancelled', [{ type: 'response.cancelled', response: { status: 'cancelled' } }], { code: 'upstream_error' }],
  [
    'an error event',
    [{ type: 'error', code: 'server_error', message: 'm', param: null }],
    { code: 'upstream_error', upstream: { code: 'server_error' } },
  ],
  [
    'a nested error',
    [{ type: 'error', error: { type: 'invalid_request_error', message: 'm' } }],
    { code: 'upstream_error', upstream: { type: 'invalid_request_error' } },
  ],
  ['a second response', [created], { code: 'upstream_protocol', reason: 'second_message' }],
  ['nothing', [], { code: 'upstream_truncated' }],
];

t.test('a failure after text is an error, and the text is kept', async (t) => {
  for (const [name, events, error] of FAILURES) {
    const played = decodeText(sse(created, textDelta('x'), ...events));
    t.equal(played.text, 'x', `${name}: text`);
    t.equal(played.finish, undefined, `${name}: no finish part`);
    t.match(played.error, error, name);
  }
});

async function play(t: Test, script: Script): Promise<Collected> {
  const upstream = await startUpstream(t, script);
  const provider = PROVIDER_TYPES.openai?.create({ ...OPTIONS, api: undefined, baseUrl: upstream.url });
  if (provider === undefined) throw new Error('no provider type openai');
  t.teardown(() => provider.close());
  return collect(provider.stream({ model: 'm', messages: [USER] }, new AbortController().signal));
}

t.test('an answer is complete by its last event, whatever the connection does', async (t) => {
  const whole = sse(created, textDelta('x'), completed());
  const cut = sse(created, textDelta('x'));
  const HEAD = { 'content-type': 'text/event-stream' };
  const rows: [name: string, script: Script, error: object | undefined][] = [
    ['FIN', ({ response }) => void response.writeHead(200, HEAD).end(whole), undefined],
    ['silence', ({ response }) => void response.writeHead(200, HEAD).write(whole), undefined],
    [
      'RST',
      ({ response }) => void response.writeHead(200, HEAD).write(whole, () => response.socket?.resetAndDestroy()),
      undefined,
    ],
    ['FIN too early', ({ response }) => void response.writeHead(200, HEAD).end(cut), { code: 'upstream_truncated' }],
    [
      'error object',
      ({ response }) => void response.writeHead(200, HEAD).end(`${cut}data: {"error":{"message":"m"}}\n\n`),
      { code: 'upstream_error' },
    ],
  ];
  for (const [name, script, error] of rows) {
    const played = await play(t, script);
    t.equal(played.text, 'x', `${name}: text`);
    if (error === undefined) t.match(played, { error: undefined, finish: { reason: 'stop' } }, name);
    else t.match(played.error, error, name);
  }
});

t.test('the provider and its settings select the API', async (t) => {
  const upstream = await startUpstream(t, ({ response }) => void response.writeHead(500).end());
  const pathOf = async (type: string, path: string, options: object) => {
    const provider = PROVIDER_TYPES[type]?.create({
      ...OPTIONS,
      api: undefined,
      baseUrl: `${upstream.url}${path}`,
      ...options,
    });
    if (provider === undefined) throw new Error(`no provider type ${type}`);
    await collect(provider.stream({ model: 'm', messages: [USER] }, new AbortController().signal));
    await provider.close();
    return upstream.calls.at(-1)?.request.url;
  };
  const api = 'responses';
  t.equal(await pathOf('openai', '/v1', {}), '/v1/responses');
  t.equal(await pathOf('openai', '/v1', { api: 'chat' }), '/v1/chat/completions');
  t.equal(await pathOf('azure', '/', {}), '/openai/v1/chat/completions');
  t.equal(await pathOf('azure', '/', { api }), '/openai/v1/responses');
  t.equal(await pathOf('azure', '/', { api, apiVersion: '2025-04-01' }), '/openai/responses?api-version=2025-04-01');
  for (const type of ['openai-compatible', 'xai', 'openrouter', 'vllm']) {
    t.equal(await pathOf(type, '/v1', { api }), '/v1/responses', type);
    t.equal(await pathOf(type, '/v1', {}), '/v1/chat/completions', type);
  }
});
