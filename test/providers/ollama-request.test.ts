import t from 'tap';
import { createOllama } from '../../providers/ollama.ts';
import type { ChatMessage, ChatRequest } from '../../providers/types.ts';
import { ollamaBody } from '../../providers/wire/ollama-body.ts';
import { startUpstream } from '../upstream.ts';
import { collect } from './collect.ts';
import { OPTIONS } from './options.ts';

/** Tests the body of a request to Ollama, field by field. */

const PNG = 'data:image/png;base64,iVBORw0KGgo=';
const USER: ChatMessage = { role: 'user', content: 'q' };

t.test('Ollama gets only the fields that the question has', async (t) => {
  const upstream = await startUpstream(t, ({ response }) => {
    response.writeHead(200, { 'content-type': 'application/x-ndjson' }).end('{"done":true,"done_reason":"stop"}\n');
  });
  const provider = createOllama({ ...OPTIONS, baseUrl: upstream.url, apiKeys: ['secret'] });
  t.teardown(() => provider.close());
  let calls = 0;
  const bodyOf = async (request: Partial<ChatRequest>) => {
    await collect(provider.stream({ model: 'm', messages: [USER], ...request }, new AbortController().signal));
    calls += 1;
    const call = await upstream.call(calls);
    t.equal(call.request.url, '/api/chat');
    t.equal(call.request.headers.authorization, 'Bearer secret');
    return JSON.parse(call.body) as Record<string, unknown>;
  };
  const plain = { model: 'm', messages: [{ role: 'user', content: 'q' }], stream: true };
  t.same(await bodyOf({}), plain);
  t.same(await bodyOf({ temperature: 0 }), { ...plain, options: { temperature: 0 } });
  t.same(await bodyOf({ topP: 0.5 }), { ...plain, options: { top_p: 0.5 } });
  t.same(await bodyOf({ maxTokens: 5 }), { ...plain, options: { num_predict: 5 } });
  t.same(await bodyOf({ stop: ['x'] }), { ...plain, options: { stop: ['x'] } });
  const tools = [{ name: 'f' }];
  const sent = [{ type: 'function', function: { name: 'f' } }];
  t.match(await bodyOf({ tools }), { tools: sent });
  t.match(await bodyOf({ tools, toolChoice: 'auto' }), { tools: sent });
  t.same(await bodyOf({ tools, toolChoice: 'none' }), plain);
});

t.test('Ollama gets each kind of message in its own form', async (t) => {
  const upstream = await startUpstream(t, ({ response }) => {
    response.writeHead(200, { 'content-type': 'application/x-ndjson' }).end('{"done":true,"done_reason":"stop"}\n');
  });
  const provider = createOllama({ ...OPTIONS, baseUrl: upstream.url });
  t.teardown(() => provider.close());
  const call = (id: string, args: string) => ({ id, name: 'f', arguments: args });
  const messages: [ChatMessage, object][] = [
    [
      { role: 'system', content: 'Be brief.' },
      { role: 'system', content: 'Be brief.' },
    ],
    [
      { role: 'assistant', content: 'a' },
      { role: 'assistant', content: 'a' },
    ],
    [
      {
        role: 'user',
        content: [
          { type: 'text', text: 'one' },
          { type: 'text', text: 'two' },
        ],
      },
      { role: 'user', content: 'one\ntwo' },
    ],
    [
      {
        role: 'user',
        content: [
          { type: 'image', url: PNG },
          { type: 'text', text: 'what?' },
        ],
      },
      { role: 'user', content: 'what?', images: ['iVBORw0KGgo='] },
    ],
    [
      { role: 'assistant', content: 'b', reasoning: 'hm', toolCalls: [call('c1', '{"a":1}'), call('c2', '')] },
      {
        role: 'assistant',
        content: 'b',
        thinking: 'hm',
        tool_calls: [{ function: { name: 'f', arguments: { a: 1 } } }, { function: { name: 'f', arguments: {} } }],
      },
    ],
    [
      { role: 'tool', toolCallId: 'c1', name: 'f', content: '1' },
      { role: 'tool', tool_name: 'f', content: '1' },
    ],
    [
      { role: 'tool', toolCallId: 'c2', name: 'f', content: '2' },
      { role: 'tool', tool_name: 'f', content: '2' },
    ],
    [
      { role: 'assistant', content: '', toolCalls: [call('c3', '[1]')] },
      { role: 'assistant', content: '', tool_calls: [{ function: { name: 'f', arguments: {} } }] },
    ],
  ];
  const request = { model: 'm', messages: messages.map(([message]) => message) };
  await collect(provider.stream(request, new AbortController().signal));
  const body = JSON.parse((await upstream.call(1)).body) as { messages: object[] };
  t.same(
    body.messages,
    messages.map(([, sent]) => sent),
  );
});

t.test('Ollama rejects an image that is not inline, before the call', async (t) => {
  const provider = createOllama({ ...OPTIONS, baseUrl: 'http://127.0.0.1:1' });
  t.teardown(() => provider.close());
  const messages: ChatMessage[] = [
    { role: 'user', content: [{ type: 'image', url: 'https://images.example/cat.png' }] },
  ];
  const { error } = await collect(provider.stream({ model: 'm', messages }, new AbortController().signal));
  t.match(error, { code: 'upstream_rejected', reason: 'image_url', retryable: false });
});

const optionsOf = (model: string, options: Record<string, unknown>, others: Partial<ChatRequest> = {}) => {
  const {
    messages: _,
    model: __,
    stream: ___,
    ...fields
  } = ollamaBody({ model, messages: [USER], options, ...others });
  return fields;
};

t.test('options have the names of Ollama, and unknown ones go to the model', async (t) => {
  const options = {
    seed: 0,
    top_k: 1,
    min_p: 0.1,
    presence_penalty: 0.2,
    frequency_penalty: 0.3,
    repetition_penalty: 1.1,
  };
  const { repetition_penalty: repeatPenalty, ...same } = options;
  t.same(optionsOf('m', options), { options: { ...same, repeat_penalty: repeatPenalty } });
  t.same(optionsOf('m', { num_ctx: 32_768, mirostat: 1 }), { options: { num_ctx: 32_768, mirostat: 1 } });
  t.same(optionsOf('m', { temperature: 2, num_predict: 9 }, { maxTokens: 5 }), { options: { num_predict: 5 } });
  t.same(optionsOf('m', { user: 'u', metadata: {}, store: true, verbosity: 'low', seed: null, num_gpu: null }), {});
  t.same(optionsOf('m', { keep_alive: '1h', num_ctx: 1 }, { forward: ['keep_alive'] }), {
    keep_alive: '1h',
    options: { num_ctx: 1 },
  });
});

t.test('a JSON format becomes the format of Ollama', async (t) => {
  const schema = { type: 'object', properties: {} };
  const json = { type: 'json_schema', json_schema: { name: 'n', schema } };
  t.same(optionsOf('m', { response_format: json }), { format: schema });
  t.same(optionsOf('m', { response_format: { type: 'json_object' } }), { format: 'json' });
  t.same(optionsOf('m', { response_format: { type: 'text' } }), {});
});

t.test('reasoning is turned on or off, and has levels for gpt-oss', async (t) => {
  const rows: [string, Record<string, unknown>, boolean | string | undefined][] = [
    ['qwen3', {}, undefined],
    ['qwen3', { reasoning_effort: 'low' }, true],
    ['qwen3', { reasoning_effort: 'none' }, false],
    ['qwen3', { enable_thinking: false }, false],
    ['qwen3', { thinking: { type: 'enabled' } }, true],
    ['gpt-oss:20b', { reasoning_effort: 'minimal' }, 'low'],
    ['gpt-oss:20b', { reasoning_effort: 'low' }, 'low'],
    ['gpt-oss:20b', { reasoning_effort: 'medium' }, 'medium'],
    ['gpt-oss:20b', { reasoning_effort: 'high' }, 'high'],
    ['gpt-oss:20b', { reasoning_effort: 'max' }, 'high'],
    ['gpt-oss:20b', { enable_thinking: true }, 'medium'],
    ['gpt-oss:20b', { reasoning_effort: 'none' }, 'low'],
  ];
  for (const [model, options, think] of rows)
    t.equal(optionsOf(model, options).think, think, `${model} ${JSON.stringify(options)}`);
});
