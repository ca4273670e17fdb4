import OpenAI, { APIError, APIUserAbortError } from 'openai';
import t, { type Test } from 'tap';
import { until } from '../helper.ts';
import { noRecordings } from '../providers/fixtures.ts';
import { open } from '../sse-client.ts';
import { chunk, completeAnswer, DONE, STOP, sse, text, unfinishedAnswer } from '../upstream.ts';
import { playing, type Service, serviceOf } from './service.ts';

/** The official OpenAI SDK, unchanged, against the service. */

const MESSAGES = [{ role: 'user', content: 'q' }] as const;
const ASK = { model: 'it/m', messages: [...MESSAGES] };
const sdk = ({ url }: Service) => new OpenAI({ baseURL: `${url}/v1`, apiKey: 'any' });
const USAGE = 'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}\n\n';

async function streamed(client: OpenAI, extra: object = {}) {
  const stream = await client.chat.completions.create({ ...ASK, ...extra, stream: true });
  const chunks = [];
  for await (const one of stream) chunks.push(one);
  return chunks;
}

t.test('a stream: role, text, finish, and the tokens where they are asked for', async (t) => {
  const service = await serviceOf(t, 'openai', ({ response }) => {
    sse(response).end(text('Hello ') + text('world') + STOP + USAGE + DONE);
  });
  const chunks = await streamed(sdk(service), { stream_options: { include_usage: true } });
  t.equal(chunks[0]?.choices[0]?.delta.role, 'assistant');
  t.equal(chunks.map((one) => one.choices[0]?.delta.content ?? '').join(''), 'Hello world');
  t.equal(chunks.at(-2)?.choices[0]?.finish_reason, 'stop');
  t.match(chunks.at(-1), { choices: [], usage: { prompt_tokens: 3, completion_tokens: 2, total_tokens: 5 } });
  t.equal(chunks[0]?.usage, null);
  t.match(chunks[0], { id: /^chatcmpl-/, object: 'chat.completion.chunk', model: 'it/m' });
  t.equal(new Set(chunks.map(({ id }) => id)).size, 1, 'one id');

  const without = await streamed(sdk(service));
  t.notOk(
    without.some((one) => 'usage' in one),
    'no tokens unless asked for',
  );
});

t.test('an answer that does not stream', async (t) => {
  const service = await serviceOf(t, 'deepseek', ({ response }) => {
    sse(response).end(chunk({ reasoning_content: 'hm' }) + text('Hello') + STOP + USAGE + DONE);
  });
  const answer = await sdk(service).chat.completions.create(ASK);
  t.match(answer, {
    id: /^chatcmpl-/,
    object: 'chat.completion',
    model: 'it/m',
    choices: [
      { index: 0, finish_reason: 'stop', message: { role: 'assistant', content: 'Hello', reasoning_content: 'hm' } },
    ],
    usage: { prompt_tokens: 3, completion_tokens: 2, total_tokens: 5 },
  });
});

t.test('everything that it asks reaches the provider', async (t) => {
  const service = await serviceOf(t, 'vllm', completeAnswer('x'));
  const tools = [{ type: 'function' as const, function: { name: 'f', parameters: { type: 'object' } } }];
  await sdk(service).chat.completions.create({
    model: 'it/m',
    messages: [
      { role: 'developer', content: [{ type: 'text', text: 'Be brief.' }] },
      { role: 'user', content: [{ type: 'image_url', image_url: { url: 'https://a.example/a.png' } }] },
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
    metadata: { ignored: 'yes' },
    store: false,
  });
  t.same(JSON.parse(service.upstream.calls[0]?.body ?? ''), {
    seed: 7,
    parallel_tool_calls: false,
    response_format: { type: 'json_object' },
    model: 'm',
    messages: [
      { role: 'system', content: 'Be brief.' },
      { role: 'user', content: [{ type: 'image_url', image_url: { url: 'https://a.example/a.png' } }] },
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

/** Recording, the provider that reads it, the calls as they come out, reasoning or not. */
const RECORDED: [string, string, { name: string; arguments: string }[], boolean][] = [
  ['anthropic/tools-two.sse', 'anthropic', [{ name: 'get_weather', arguments: 'San Francisco' }], false],
  ['anthropic/thinking-tool.sse', 'anthropic', [{ name: 'fixed_version', arguments: '' }], true],
  ['gemini/tools-two.sse', 'gemini', [{ name: 'add', arguments: '"b":3' }], false],
  ['ollama/tool-call.ndjson', 'ollama', [{ name: 'get_weather', arguments: 'Tokyo' }], false],
];

t.test('tool calls of every provider look like OpenAI’s', { skip: noRecordings }, async (t) => {
  for (const [file, type, [first], reasons] of RECORDED) {
    const service = await serviceOf(t, type, playing(file));
    const chunks = await streamed(sdk(service));
    const deltas = chunks.flatMap((one) => one.choices[0]?.delta.tool_calls ?? []);
    const ofFirst = deltas.filter(({ index }) => index === 0);
    t.equal(ofFirst.filter(({ id }) => id !== undefined).length, 1, `${file}: id once`);
    t.equal(ofFirst.filter((one) => one.function?.name).length, 1, `${file}: name once`);
    t.match(ofFirst[0], { type: 'function', id: /./, function: { name: first?.name } }, file);
    t.match(ofFirst.map((one) => one.function?.arguments ?? '').join(''), first?.arguments, `${file}: arguments`);
    t.equal(chunks.at(-1)?.choices[0]?.finish_reason, 'tool_calls', `${file}: finish reason`);
    const reasoning = chunks.map((one) => (one.choices[0]?.delta as { reasoning_content?: string })?.reasoning_content);
    t.equal(reasoning.some(Boolean), reasons, `${file}: reasoning`);

    const whole = await sdk(service).chat.completions.create(ASK);
    const [call] = whole.choices[0]?.message.tool_calls ?? [];
    t.match(call, { id: /./, type: 'function', function: { name: first?.name } }, `${file}: whole`);
  }
});

t.test('the SDK’s own loop runs a tool and asks again', async (t) => {
  const service = await serviceOf(t, 'openai', ({ body, response }) => {
    const last = JSON.parse(body).messages.at(-1);
    if (last.role === 'tool') return void sse(response).end(text(`It is ${last.content}.`) + STOP + DONE);
    const call = { index: 0, id: 'c1', type: 'function', function: { name: 'weather', arguments: '{"city":"Oslo"}' } };
    sse(response).end(chunk({ tool_calls: [call] }) + chunk({}, 'tool_calls') + DONE);
  });
  const runner = sdk(service).chat.completions.runTools({
    ...ASK,
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

async function failure(t: Test, call: Promise<unknown>): Promise<APIError> {
  try {
    await call;
  } catch (error) {
    t.ok(error instanceof APIError, `an APIError: ${error}`);
    return error as APIError;
  }
  throw new Error('it did not fail');
}

t.test('refusals before the answer keep their status, and are not repeated', async (t) => {
  const refusing = (status: number, headers = {}) =>
    serviceOf(t, 'openai', ({ response }) => {
      response.writeHead(status, headers).end('{"error":{"message":"SECRET"}}');
    });
  const cases: [number, number, string][] = [
    [429, 429, 'upstream_rate_limited'],
    [400, 400, 'upstream_rejected'],
    [401, 502, 'upstream_rejected'],
    [503, 502, 'upstream_failed'],
  ];
  for (const [theirs, status, code] of cases) {
    for (const stream of [true, false]) {
      const service = await refusing(theirs);
      const error = await failure(t, sdk(service).chat.completions.create({ ...ASK, stream }));
      t.equal(error.status, status, `${theirs}`);
      t.equal(error.code, code);
      t.notMatch(error.message, /SECRET/);
      const repeated = theirs === 429 || theirs === 503;
      t.equal(service.upstream.calls.length, repeated ? 2 : 1, 'the service may ask again, the SDK does not');
    }
  }
  const limited = await refusing(429, { 'retry-after': '17' });
  const error = await failure(t, sdk(limited).chat.completions.create(ASK));
  t.equal(error.headers?.get('retry-after'), '17');
  const unknown = await failure(t, sdk(limited).chat.completions.create({ ...ASK, model: 'no/such' }));
  t.match(unknown, { status: 404, code: 'not_found', type: 'invalid_request_error' });
  t.match(unknown.message, /it\/m/, 'with the models that there are');
});

t.test('a failure in the middle is raised, behind what was delivered', async (t) => {
  const service = await serviceOf(t, 'openai', ({ response }) => {
    sse(response).write(text('partial'), () => response.destroy());
  });
  const stream = await sdk(service).chat.completions.create({ ...ASK, stream: true });
  let got = '';
  const error = await failure(
    t,
    (async () => {
      for await (const one of stream) got += one.choices[0]?.delta.content ?? '';
    })(),
  );
  t.equal(got, 'partial');
  t.match(error, { code: 'upstream_truncated', type: 'server_error' });
});

t.test('abort ends the upstream call, streaming or not', async (t) => {
  for (const stream of [true, false]) {
    const service = await serviceOf(t, 'openai', unfinishedAnswer('one '));
    const controller = new AbortController();
    const asking = sdk(service).chat.completions.create({ ...ASK, stream }, { signal: controller.signal });
    const call = await service.upstream.call(1);
    if (stream) await asking;
    else asking.catch(() => {});
    controller.abort();
    await call.closed;
    t.notOk(call.finished, stream ? 'streaming' : 'whole');
    if (!stream) t.ok((await failure(t, asking)) instanceof APIUserAbortError);
  }
  const silent = await serviceOf(t, 'openai', () => {});
  const controller = new AbortController();
  const asking = sdk(silent).chat.completions.create({ ...ASK, stream: true }, { signal: controller.signal });
  asking.catch(() => {});
  const call = await silent.upstream.call(1);
  controller.abort();
  await call.closed;
  t.pass('before the first token, too');
});

t.test('models', async (t) => {
  const service = await serviceOf(t, 'openai', completeAnswer('x'));
  const models = await sdk(service).models.list();
  t.match(models.data, [{ id: 'it/m', object: 'model', owned_by: 'sluice' }]);
  t.match(await sdk(service).models.retrieve('it/m'), { id: 'it/m' });
  t.equal((await failure(t, sdk(service).models.retrieve('no/such'))).status, 404);
});

t.test('a stream here is read again and stopped by its id, too', async (t) => {
  const service = await serviceOf(t, 'openai', unfinishedAnswer('one '));
  const client = sdk(service);
  const { data, response } = await client.chat.completions
    .create({ ...ASK, stream: true, resumable: true } as never)
    .withResponse();
  const id = response.headers.get('x-sluice-stream') as string;
  const again = await open(`${service.url}/streams/${id}`);
  t.match((await again.until('delta')).json, { content: 'one ' });
  await fetch(`${service.url}/streams/${id}`, { method: 'DELETE' });
  const chunks = [];
  for await (const one of data as unknown as AsyncIterable<OpenAI.ChatCompletionChunk>) chunks.push(one);
  t.equal(chunks.at(-1)?.choices[0]?.finish_reason, 'stop');
  await until(() => service.upstream.calls[0]?.closedAt !== undefined, 'the upstream call has ended');
});
