import OpenAI, { APIError, APIUserAbortError } from 'openai';
import t, { type Test } from 'tap';
import { until } from '../helper.ts';
import { noRecordings } from '../providers/fixtures.ts';
import { open } from '../sse-client.ts';
import { chunk, completeAnswer, DONE, STOP, sse, text, unfinishedAnswer } from '../upstream.ts';
import { playRecording, type Service, serveProvider } from './service.ts';

/** Tests the official OpenAI SDK as a client of the service. */

const MESSAGES = [{ role: 'user', content: 'q' }] as const;
const REQUEST = { model: 'p/m', messages: [...MESSAGES] };
const sdk = ({ url }: Service) => new OpenAI({ baseURL: `${url}/v1`, apiKey: 'any' });
const USAGE = 'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}\n\n';

/** Streams one answer. Returns its chunks. */
async function streamChunks(client: OpenAI, extra: object = {}) {
  const stream = await client.chat.completions.create({ ...REQUEST, ...extra, stream: true });
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

t.test('a stream has role, text and finish reason, and usage only if include_usage is set', async (t) => {
  const service = await serveProvider(t, 'openai', ({ response }) => {
    sse(response).end(text('Hello ') + text('world') + STOP + USAGE + DONE);
  });
  const chunks = await streamChunks(sdk(service), { stream_options: { include_usage: true } });
  t.equal(chunks[0]?.choices[0]?.delta.role, 'assistant');
  t.equal(chunks.map(({ choices }) => choices[0]?.delta.content ?? '').join(''), 'Hello world');
  t.equal(chunks.at(-2)?.choices[0]?.finish_reason, 'stop');
  t.match(chunks.at(-1), { choices: [], usage: { prompt_tokens: 3, completion_tokens: 2, total_tokens: 5 } });
  t.equal(chunks[0]?.usage, null);
  t.match(chunks[0], { id: /^chatcmpl-/, object: 'chat.completion.chunk', model: 'p/m' });
  t.equal(new Set(chunks.map(({ id }) => id)).size, 1, 'all chunks have one id');

  const withoutUsage = await streamChunks(sdk(service));
  t.notOk(
    withoutUsage.some((chunk) => 'usage' in chunk),
    'no usage without include_usage',
  );
});

t.test('an answer that is not streamed has text, reasoning and usage', async (t) => {
  const service = await serveProvider(t, 'deepseek', ({ response }) => {
    sse(response).end(chunk({ reasoning_content: 'hm' }) + text('Hello') + STOP + USAGE + DONE);
  });
  const answer = await sdk(service).chat.completions.create(REQUEST);
  t.match(answer, {
    id: /^chatcmpl-/,
    object: 'chat.completion',
    model: 'p/m',
    choices: [
      { index: 0, finish_reason: 'stop', message: { role: 'assistant', content: 'Hello', reasoning_content: 'hm' } },
    ],
    usage: { prompt_tokens: 3, completion_tokens: 2, total_tokens: 5 },
  });
});

t.test('all supported fields of a request reach the provider', async (t) => {
  const service = await serveProvider(t, 'vllm', completeAnswer('x'));
  const tools = [{ type: 'function' as const, function: { name: 'f', parameters: { type: 'object' } } }];
  await sdk(service).chat.completions.create({
    model: 'p/m',
    messages: [
      { role: 'developer', content: [{ type: 'text', text: 'Be brief.' }] },
      { role: 'user', content: [{ type: 'image_url', image_url: { url: 'https://203.0.113.7/a.png' } }] },
      {
        role: 'assistant',
        content: null,
        tool_calls: [{ id: 'c1', type: 'function', function: { name: 'f', arguments: '{}' } }],
      },
      { role: 'tool', tool_call_id: 'c1', content: 'done' },
    ],
    temperature: 0,
    top_p: 0.5,
    max_completion_tokens: 9,
    stop: 'END',
    seed: 7,
    parallel_tool_calls: false,
    response_format: { type: 'json_object' },
    tools,
    tool_choice: { type: 'function', function: { name: 'f' } },
    metadata: { a: 'b' },
    store: false,
  });
  t.same(JSON.parse(service.upstream.calls[0]?.body ?? ''), {
    seed: 7,
    parallel_tool_calls: false,
    response_format: { type: 'json_object' },
    metadata: { a: 'b' },
    store: false,
    model: 'm',
    messages: [
      { role: 'system', content: 'Be brief.' },
      { role: 'user', content: [{ type: 'image_url', image_url: { url: 'https://203.0.113.7/a.png' } }] },
      {
        role: 'assistant',
        content: null,
        tool_calls: [{ id: 'c1', type: 'function', function: { name: 'f', arguments: '{}' } }],
      },
      { role: 'tool', tool_call_id: 'c1', content: 'done' },
    ],
    stream: true,
    stream_options: { include_usage: true },
    temperature: 0,
    top_p: 0.5,
    max_tokens: 9,
    stop: ['END'],
    tools,
    tool_choice: { type: 'function', function: { name: 'f' } },
  });
});

/** Recording, provider type, expected tool calls, and whether the recording has reasoning. */
const RECORDINGS: [string, string, { name: string; arguments: string }[], boolean][] = [
  ['anthropic/tools-two.sse', 'anthropic', [{ name: 'get_weather', arguments: 'San Francisco' }], false],
  ['anthropic/thinking-tool.sse', 'anthropic', [{ name: 'fixed_version', arguments: '' }], true],
  ['gemini/tools-two.sse', 'gemini', [{ name: 'add', arguments: '"b":3' }], false],
  ['ollama/tool-call.ndjson', 'ollama', [{ name: 'get_weather', arguments: 'Tokyo' }], false],
];

t.test('tool calls of every provider have the format of OpenAI', { skip: noRecordings }, async (t) => {
  for (const [file, type, [first], hasReasoning] of RECORDINGS) {
    const service = await serveProvider(t, type, playRecording(file));
    const chunks = await streamChunks(sdk(service));
    const deltas = chunks.flatMap(({ choices }) => choices[0]?.delta.tool_calls ?? []);
    const deltasOfFirst = deltas.filter(({ index }) => index === 0);
    t.equal(deltasOfFirst.filter(({ id }) => id !== undefined).length, 1, `${file}: one delta has the id`);
    t.equal(deltasOfFirst.filter((delta) => delta.function?.name).length, 1, `${file}: one delta has the name`);
    t.match(deltasOfFirst[0], { type: 'function', id: /./, function: { name: first?.name } }, file);
    const args = deltasOfFirst.map((delta) => delta.function?.arguments ?? '').join('');
    t.match(args, first?.arguments, `${file}: arguments`);
    t.equal(chunks.at(-1)?.choices[0]?.finish_reason, 'tool_calls', `${file}: finish reason`);
    const reasoning = chunks.map(
      ({ choices }) => (choices[0]?.delta as { reasoning_content?: string })?.reasoning_content,
    );
    t.equal(reasoning.some(Boolean), hasReasoning, `${file}: reasoning`);

    const whole = await sdk(service).chat.completions.create(REQUEST);
    const [call] = whole.choices[0]?.message.tool_calls ?? [];
    t.match(call, { id: /./, type: 'function', function: { name: first?.name } }, `${file}: not streaming`);
  }
});

t.test('runTools runs a tool and sends its result', async (t) => {
  const service = await serveProvider(t, 'openai', ({ body, response }) => {
    const last = JSON.parse(body).messages.at(-1);
    if (last.role === 'tool') return void sse(response).end(text(`It is ${last.content}.`) + STOP + DONE);
    const call = { index: 0, id: 'c1', type: 'function', function: { name: 'weather', arguments: '{"city":"Oslo"}' } };
    sse(response).end(chunk({ tool_calls: [call] }) + chunk({}, 'tool_calls') + DONE);
  });
  const runner = sdk(service).chat.completions.runTools({
    ...REQUEST,
    tools: [
      {
        type: 'function',
        function: {
          name: 'weather',
          parse: JSON.parse,
          function: ({ city }: { city: string }) => `cold in ${city}`,
          description: 'Weather',
          parameters: { type: 'object', properties: { city: { type: 'string' } } },
        },
      },
    ],
  });
  t.equal(await runner.finalContent(), 'It is cold in Oslo.');
});

/** Waits for a call to fail. Returns its error, which must be an APIError. */
async function failure(t: Test, call: Promise<unknown>): Promise<APIError> {
  try {
    await call;
  } catch (error) {
    t.ok(error instanceof APIError, `an APIError: ${error}`);
    return error as APIError;
  }
  throw new Error('the call did not fail');
}

t.test('an error before the answer keeps its status, and the SDK does not retry', async (t) => {
  const serveError = (status: number, headers = {}) =>
    serveProvider(t, 'openai', ({ response }) => {
      response.writeHead(status, headers).end('{"error":{"message":"SECRET"}}');
    });
  const cases: [number, number, string][] = [
    [429, 429, 'upstream_rate_limited'],
    [400, 400, 'upstream_rejected'],
    [401, 403, 'credentials'],
    [503, 502, 'upstream_failed'],
  ];
  for (const [upstreamStatus, status, code] of cases) {
    for (const stream of [true, false]) {
      const service = await serveError(upstreamStatus);
      const error = await failure(t, sdk(service).chat.completions.create({ ...REQUEST, stream }));
      t.equal(error.status, status, `status for ${upstreamStatus}`);
      t.equal(error.code, code, `code for ${upstreamStatus}`);
      t.notMatch(error.message, /SECRET/, "the provider's message is not exposed");
      const isRetried = upstreamStatus === 429 || upstreamStatus === 503;
      t.equal(service.upstream.calls.length, isRetried ? 2 : 1, 'the service retries once, the SDK does not');
    }
  }
  const limited = await serveError(429, { 'retry-after': '17' });
  const error = await failure(t, sdk(limited).chat.completions.create(REQUEST));
  t.equal(error.headers?.get('retry-after'), '17');
  const unknown = await failure(t, sdk(limited).chat.completions.create({ ...REQUEST, model: 'no/such' }));
  t.match(unknown, { status: 404, code: 'not_found', type: 'invalid_request_error' });
  t.match(unknown.message, /p\/m/, 'the message names the configured models');
});

t.test('a failure after partial text is thrown after the text', async (t) => {
  const service = await serveProvider(t, 'openai', ({ response }) => {
    sse(response).write(text('partial'), () => response.destroy());
  });
  const stream = await sdk(service).chat.completions.create({ ...REQUEST, stream: true });
  let received = '';
  const error = await failure(
    t,
    (async () => {
      for await (const { choices } of stream) received += choices[0]?.delta.content ?? '';
    })(),
  );
  t.equal(received, 'partial');
  t.match(error, { code: 'upstream_truncated', type: 'server_error' });
});

t.test('an abort cancels the upstream call, streaming or not', async (t) => {
  for (const stream of [true, false]) {
    const service = await serveProvider(t, 'openai', unfinishedAnswer('one '));
    const controller = new AbortController();
    const pending = sdk(service).chat.completions.create({ ...REQUEST, stream }, { signal: controller.signal });
    const call = await service.upstream.call(1);
    if (stream) await pending;
    else pending.catch(() => {});
    controller.abort();
    await call.closed;
    t.notOk(call.finished, stream ? 'streaming' : 'not streaming');
    if (!stream) t.ok((await failure(t, pending)) instanceof APIUserAbortError);
  }
  const silent = await serveProvider(t, 'openai', () => {});
  const controller = new AbortController();
  const pending = sdk(silent).chat.completions.create({ ...REQUEST, stream: true }, { signal: controller.signal });
  pending.catch(() => {});
  const call = await silent.upstream.call(1);
  controller.abort();
  await call.closed;
  t.pass('an abort before the first token cancels the upstream call');
});

t.test('the configured models are listed and retrieved', async (t) => {
  const service = await serveProvider(t, 'openai', completeAnswer('x'));
  const models = await sdk(service).models.list();
  t.match(models.data, [{ id: 'p/m', object: 'model', owned_by: 'sluice' }]);
  t.match(await sdk(service).models.retrieve('p/m'), { id: 'p/m' });
  t.equal((await failure(t, sdk(service).models.retrieve('no/such'))).status, 404);
});

t.test('a resumable stream can be read and stopped by its stream id', async (t) => {
  const service = await serveProvider(t, 'openai', unfinishedAnswer('one '));
  const client = sdk(service);
  const { data, response } = await client.chat.completions
    .create({ ...REQUEST, stream: true, resumable: true } as never)
    .withResponse();
  const id = response.headers.get('x-sluice-stream') as string;
  const reader = await open(`${service.url}/streams/${id}`);
  t.match((await reader.until('delta')).json, { content: 'one ' });
  await fetch(`${service.url}/streams/${id}`, { method: 'DELETE' });
  const chunks = [];
  for await (const chunk of data as unknown as AsyncIterable<OpenAI.ChatCompletionChunk>) chunks.push(chunk);
  t.equal(chunks.at(-1)?.choices[0]?.finish_reason, 'stop');
  await until(() => service.upstream.calls[0]?.closedAt !== undefined, 'the upstream call is closed');
});
