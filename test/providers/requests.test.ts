import t, { type Test } from 'tap';
import { ProviderError } from '../../providers/errors.ts';
import { PROVIDER_TYPES } from '../../providers/registry.ts';
import type { ChatRequest } from '../../providers/types.ts';
import { startUpstream } from '../upstream.ts';
import { collect } from './collect.ts';
import { OPTIONS } from './options.ts';

/** Compares the HTTP request of every provider for one prompt with all fields. */

const PNG = 'data:image/png;base64,iVBORw0KGgo=';
const URL_IMAGE = 'https://images.example/cat.png';
const PARAMETERS = { type: 'object', properties: { city: { type: 'string' } } };

const REQUEST: ChatRequest = {
  model: 'm-1',
  messages: [
    { role: 'system', content: 'Be brief.' },
    {
      role: 'user',
      content: [
        { type: 'text', text: 'Weather here?' },
        { type: 'image', url: PNG },
      ],
    },
    { role: 'assistant', content: '', toolCalls: [{ id: 'call_1', name: 'weather', arguments: '{"city":"Oslo"}' }] },
    { role: 'tool', toolCallId: 'call_1', name: 'weather', content: '{"celsius":-3}' },
    { role: 'user', content: 'And tomorrow?' },
  ],
  temperature: 1.5,
  topP: 0.9,
  maxTokens: 64,
  stop: ['END'],
  tools: [{ name: 'weather', description: 'Looks out of the window', parameters: PARAMETERS }],
  toolChoice: 'required',
  options: { seed: 7 },
};

interface SentRequest {
  path: string | undefined;
  headers: Record<string, unknown>;
  body: Record<string, unknown>;
  error: unknown;
}

/** Sends a request to an upstream that answers 500. Returns what the upstream received. */
async function sentRequest(t: Test, type: string, request: ChatRequest, options: object = {}): Promise<SentRequest> {
  const upstream = await startUpstream(t, ({ response }) => {
    response.writeHead(500).end();
  });
  const provider = PROVIDER_TYPES[type]?.create({
    ...OPTIONS,
    baseUrl: `${upstream.url}/base`,
    apiKeys: ['secret'],
    ...options,
    ...('path' in options && { baseUrl: `${upstream.url}${options.path}` }),
  });
  if (provider === undefined) throw new Error(`no provider type ${type}`);
  t.teardown(() => provider.close());
  const { error } = await collect(provider.stream(request, new AbortController().signal));
  const call = upstream.calls[0];
  return {
    path: call?.request.url,
    headers: call?.request.headers ?? {},
    body: JSON.parse(call?.body || '{}'),
    error,
  };
}

t.test('OpenAI gets a Chat Completions request', async (t) => {
  const { path, headers, body } = await sentRequest(t, 'openai', REQUEST, { api: 'chat' });
  t.equal(path, '/base/chat/completions');
  t.match(headers, { authorization: 'Bearer secret', accept: 'text/event-stream', 'accept-encoding': 'identity' });
  t.same(body, {
    seed: 7,
    model: 'm-1',
    messages: [
      { role: 'system', content: 'Be brief.' },
      {
        role: 'user',
        content: [
          { type: 'text', text: 'Weather here?' },
          { type: 'image_url', image_url: { url: PNG } },
        ],
      },
      {
        role: 'assistant',
        content: null,
        tool_calls: [{ id: 'call_1', type: 'function', function: { name: 'weather', arguments: '{"city":"Oslo"}' } }],
      },
      { role: 'tool', tool_call_id: 'call_1', content: '{"celsius":-3}' },
      { role: 'user', content: 'And tomorrow?' },
    ],
    stream: true,
    stream_options: { include_usage: true },
    temperature: 1.5,
    top_p: 0.9,
    max_completion_tokens: 64,
    stop: ['END'],
    tools: [
      {
        type: 'function',
        function: { name: 'weather', description: 'Looks out of the window', parameters: PARAMETERS },
      },
    ],
    tool_choice: 'required',
  });
  const named = await sentRequest(t, 'groq', { ...REQUEST, toolChoice: { name: 'weather' } });
  t.same(named.body.tool_choice, { type: 'function', function: { name: 'weather' } });
  t.equal(named.body.max_tokens, 64);
});

t.test('providers that reject stream_options do not get it', async (t) => {
  for (const type of ['bella', 'mistral', 'perplexity']) {
    const { body } = await sentRequest(t, type, REQUEST);
    t.notHas(body, { stream_options: {} }, type);
    t.equal(body.max_tokens, 64, type);
  }
});

t.test('Azure gets the path of its API version, and the api-key header', async (t) => {
  const v1 = await sentRequest(t, 'azure', REQUEST, { path: '/' });
  t.equal(v1.path, '/openai/v1/chat/completions');
  t.match(v1.headers, { 'api-key': 'secret' });
  t.notHas(v1.headers, { authorization: '' });
  t.equal(v1.body.model, 'm-1');
  const dated = await sentRequest(t, 'azure', REQUEST, { path: '/', apiVersion: '2024-10-21' });
  t.equal(dated.path, '/openai/deployments/m-1/chat/completions?api-version=2024-10-21');
  const foundry = await sentRequest(t, 'azure', REQUEST, { path: '/models', apiVersion: '2024-05-01-preview' });
  t.equal(foundry.path, '/models/chat/completions?api-version=2024-05-01-preview');
});

t.test('Anthropic gets a Messages request', async (t) => {
  const { path, headers, body } = await sentRequest(t, 'anthropic', { ...REQUEST, model: 'claude-sonnet-4-0' });
  t.equal(path, '/base/messages');
  t.match(headers, { 'x-api-key': 'secret', 'anthropic-version': '2023-06-01' });
  t.same(body, {
    model: 'claude-sonnet-4-0',
    max_tokens: 64,
    system: 'Be brief.',
    messages: [
      {
        role: 'user',
        content: [
          { type: 'text', text: 'Weather here?' },
          { type: 'image', source: { type: 'base64', media_type: 'image/png', data: 'iVBORw0KGgo=' } },
        ],
      },
      {
        role: 'assistant',
        content: [{ type: 'tool_use', id: 'call_1', name: 'weather', input: { city: 'Oslo' } }],
      },
      {
        role: 'user',
        content: [
          { type: 'tool_result', tool_use_id: 'call_1', content: '{"celsius":-3}' },
          { type: 'text', text: 'And tomorrow?' },
        ],
      },
    ],
    stream: true,
    temperature: 1,
    top_p: 0.9,
    stop_sequences: ['END'],
    tools: [{ name: 'weather', description: 'Looks out of the window', input_schema: PARAMETERS }],
    tool_choice: { type: 'any' },
  });
  const { body: overridden } = await sentRequest(t, 'anthropic', REQUEST, { sampling: 'one' });
  t.match(overridden, { temperature: 1, top_p: undefined }, 'the setting wins over the rule of the model');
  const { body: plain } = await sentRequest(t, 'anthropic', {
    model: 'm',
    messages: [{ role: 'user', content: [{ type: 'image', url: URL_IMAGE }] }],
    tools: [{ name: 'now' }],
    toolChoice: { name: 'now' },
  });
  t.same(plain, {
    model: 'm',
    max_tokens: 128_000,
    messages: [{ role: 'user', content: [{ type: 'image', source: { type: 'url', url: URL_IMAGE } }] }],
    stream: true,
    tools: [{ name: 'now', input_schema: { type: 'object', properties: {} } }],
    tool_choice: { type: 'tool', name: 'now' },
  });
});

t.test('Gemini and Vertex get a streamGenerateContent request', async (t) => {
  const { path, headers, body } = await sentRequest(t, 'gemini', { ...REQUEST, model: 'gemini-2.5-flash' });
  t.equal(path, '/base/models/gemini-2.5-flash:streamGenerateContent?alt=sse');
  t.match(headers, { 'x-goog-api-key': 'secret' });
  t.same(body, {
    contents: [
      {
        role: 'user',
        parts: [{ text: 'Weather here?' }, { inlineData: { mimeType: 'image/png', data: 'iVBORw0KGgo=' } }],
      },
      { role: 'model', parts: [{ functionCall: { name: 'weather', args: { city: 'Oslo' } } }] },
      {
        role: 'user',
        parts: [{ functionResponse: { name: 'weather', response: { celsius: -3 } } }, { text: 'And tomorrow?' }],
      },
    ],
    systemInstruction: { parts: [{ text: 'Be brief.' }] },
    generationConfig: { temperature: 1.5, topP: 0.9, maxOutputTokens: 64, stopSequences: ['END'], seed: 7 },
    tools: [
      {
        functionDeclarations: [
          { name: 'weather', description: 'Looks out of the window', parametersJsonSchema: PARAMETERS },
        ],
      },
    ],
    toolConfig: { functionCallingConfig: { mode: 'ANY' } },
  });
  const vertex = await sentRequest(t, 'vertex', { ...REQUEST, model: '../x?y' });
  t.match(vertex.headers, { authorization: 'Bearer secret' });
  t.equal(vertex.path, '/base/models/..%2Fx%3Fy:streamGenerateContent?alt=sse', 'a model name cannot change the path');
  const { body: image } = await sentRequest(t, 'gemini', {
    ...REQUEST,
    model: 'gemini-3-pro',
    messages: [
      { role: 'user', content: [{ type: 'image', url: URL_IMAGE }] },
      {
        role: 'assistant',
        content: 'Looking.',
        toolCalls: [
          { id: 'a', name: 'f', arguments: '' },
          { id: 'b', name: 'g', arguments: 'nonsense' },
        ],
      },
      { role: 'tool', toolCallId: 'a', name: 'f', content: 'plain text' },
    ],
    toolChoice: { name: 'f' },
  });
  t.match(image, {
    contents: [
      { parts: [{ fileData: { fileUri: URL_IMAGE, mimeType: 'image/png' } }] },
      {
        parts: [
          { text: 'Looking.' },
          { functionCall: { name: 'f', args: {} }, thoughtSignature: 'skip_thought_signature_validator' },
          { functionCall: { name: 'g', args: {} } },
        ],
      },
      { parts: [{ functionResponse: { name: 'f', response: { result: 'plain text' } } }] },
    ],
    toolConfig: { functionCallingConfig: { mode: 'ANY', allowedFunctionNames: ['f'] } },
  });
});

t.test('Ollama gets an /api/chat request', async (t) => {
  const { path, headers, body } = await sentRequest(t, 'ollama', REQUEST);
  t.equal(path, '/base/api/chat');
  t.match(headers, { accept: 'application/x-ndjson' });
  t.same(body, {
    model: 'm-1',
    messages: [
      { role: 'system', content: 'Be brief.' },
      { role: 'user', content: 'Weather here?', images: ['iVBORw0KGgo='] },
      {
        role: 'assistant',
        content: '',
        tool_calls: [{ function: { name: 'weather', arguments: { city: 'Oslo' } } }],
      },
      { role: 'tool', tool_name: 'weather', content: '{"celsius":-3}' },
      { role: 'user', content: 'And tomorrow?' },
    ],
    stream: true,
    options: { seed: 7, temperature: 1.5, top_p: 0.9, num_predict: 64, stop: ['END'] },
    tools: [
      {
        type: 'function',
        function: { name: 'weather', description: 'Looks out of the window', parameters: PARAMETERS },
      },
    ],
  });
  const without = await sentRequest(t, 'ollama', { ...REQUEST, toolChoice: 'none' });
  t.notHas(without.body, { tools: [] });
  const rejected = await sentRequest(t, 'ollama', {
    model: 'm',
    messages: [{ role: 'user', content: [{ type: 'image', url: URL_IMAGE }] }],
  });
  t.ok(rejected.error instanceof ProviderError);
  t.match(rejected.error, { code: 'upstream_rejected', reason: 'image_url', param: 'messages', retryable: false });
  t.equal(rejected.path, undefined, 'no request is sent');
});

t.test('tool results are sent in the order of their calls if the API has no call ids', async (t) => {
  const toolCalls = ['a', 'b'].map((id) => ({ id, name: 'f', arguments: '{}' }));
  const result = (id: string) => ({ role: 'tool', toolCallId: id, name: 'f', content: `of ${id}` }) as const;
  const messages = [
    { role: 'user', content: 'q' } as const,
    { role: 'assistant', content: '', toolCalls } as const,
    result('b'),
    result('a'),
    { role: 'user', content: 'and?' } as const,
  ];
  const gemini = await sentRequest(t, 'gemini', { model: 'gemini-2.5-pro', messages });
  t.match(gemini.body.contents, {
    2: {
      parts: [
        { functionResponse: { response: { result: 'of a' } } },
        { functionResponse: { response: { result: 'of b' } } },
        { text: 'and?' },
      ],
    },
  });
  const ollama = await sentRequest(t, 'ollama', { model: 'm', messages });
  t.match(ollama.body.messages, { 2: { content: 'of a' }, 3: { content: 'of b' } });
});

t.test('blank texts are not sent to providers that reject them', async (t) => {
  const content = [{ type: 'text', text: ' ' } as const, { type: 'image', url: PNG } as const];
  for (const type of ['anthropic', 'gemini']) {
    const { body } = await sentRequest(t, type, { model: 'm', messages: [{ role: 'user', content }] });
    t.notMatch(JSON.stringify(body), /"text":" "/, type);
  }
});

t.test('a data URL without base64 is rejected without a request', async (t) => {
  for (const type of ['anthropic', 'gemini', 'ollama']) {
    const content = [{ type: 'image', url: 'data:image/svg+xml,<svg/>' } as const];
    const { error, path } = await sentRequest(t, type, { model: 'm', messages: [{ role: 'user', content }] });
    t.match(error, { code: 'upstream_rejected', reason: 'image_url', status: 400 }, type);
    t.equal(path, undefined, `${type}: no request is sent`);
  }
});

t.test('every provider sends its key', async (t) => {
  for (const [type, { embedded }] of Object.entries(PROVIDER_TYPES)) {
    if (embedded) continue;
    const { headers, error } = await sentRequest(t, type, REQUEST);
    t.match(JSON.stringify(headers), 'secret', type);
    t.match(error, { code: 'upstream_failed', retryable: true }, type);
  }
});
