import { connect } from 'node:net';
import t, { type Test } from 'tap';
import { bellaAt, serve, until } from '../helper.ts';
import { manualClock } from '../manual-clock.ts';
import { postJson } from '../post-json.ts';
import { open } from '../sse-client.ts';
import { chunk, completeAnswer, DONE, STOP, silent, sse, startUpstream, text, unfinishedAnswer } from '../upstream.ts';

/** Tests requests and errors of the OpenAI endpoint. `test/sdk/` tests it with the SDKs. */

const USER = { role: 'user', content: 'q' };

const TOOL = { type: 'function', function: { name: 'f' } };
const allowed = (name: string) => ({
  type: 'allowed_tools',
  allowed_tools: { mode: 'required', tools: [{ type: 'function', function: { name } }] },
});

/** Returns an object that serializes to nested arrays. */
const nested = (depth: number) => ({ toJSON: () => JSON.parse(`${'['.repeat(depth)}${']'.repeat(depth)}`) });

/** Starts a service whose provider answers `x`. */
async function startService(t: Test) {
  const upstream = await startUpstream(t, completeAnswer('x'));
  const { url } = await serve(t, { env: bellaAt(upstream.url) });
  const post = (body: object, headers = {}) => postJson(`${url}/v1/chat/completions`, body, headers);
  return { upstream, url, post };
}

t.test('an unsupported or invalid field gets a 400 that names it', async (t) => {
  const { upstream, post } = await startService(t);
  const cases: [object, RegExp][] = [
    [{ messages: [USER], n: 2 }, /^n other than 1/],
    [{ messages: [USER], logprobs: true }, /^logprobs is not supported/],
    [{ messages: [USER], functions: [{ name: 'f' }] }, /^functions is not supported/],
    [{ messages: [USER], audio: { voice: 'x' } }, /^audio/],
    [{ messages: [USER], modalities: ['text', 'audio'] }, /^modalities/],
    [{ messages: [] }, /messages/],
    [{ messages: [{ role: 'robot', content: 'q' }] }, /messages\.0\.role/],
    [{ messages: [{ role: 'user', content: [{ type: 'input_audio' }] }] }, /messages\.0\.content/],
    [{ messages: [{ role: 'user', content: [{ type: 'text' }] }] }, /messages\.0\.content\.0/],
    [
      { messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'http://10.0.0.1/x' } }] }] },
      /messages\.0/,
    ],
    [{ messages: [{ role: 'tool', tool_call_id: 'none', content: 'x' }] }, /messages\.0\.tool_call_id/],
    ...['system', 'developer', 'user', 'tool'].flatMap((role): [object, RegExp][] => {
      const message = { role, tool_call_id: 'c' };
      return [
        [{ messages: [{ ...message, content: null }] }, /messages\.0\.content must be string or array/],
        [{ messages: [{ ...message, content: [] }] }, /messages\.0\.content must NOT have fewer than 1 items/],
        [{ messages: [{ ...message, content: [null] }] }, /messages\.0\.content\.0 must be object/],
      ];
    }),
    [{ messages: [{ role: 'assistant', content: null }] }, /messages\.0\.content must be string or array, unless/],
    [{ messages: [{ role: 'assistant' }] }, /messages\.0\.content must be string or array, unless/],
    [{ messages: [{ ...USER, function_call: { name: 'f' } }] }, /messages\.0\.function_call/],
    [{ messages: [USER], tools: [TOOL], tool_choice: allowed('g') }, /tool_choice\.allowed_tools\.tools\.0 must name/],
    [{ messages: [USER], tool_choice: { type: 'custom' } }, /tool_choice(\.type must be equal|.*property 'function')/],
    [{ messages: [USER], temperature: 3 }, /temperature/],
    [{ messages: [USER], max_tokens: 1.5 }, /max_tokens/],
    [{ messages: [USER], tool_choice: 'maybe' }, /tool_choice/],
    [{ messages: [USER], model: '../../etc' }, /model/],
    [{ messages: [USER], response_format: nested(1_000) }, /nested too deeply/],
  ];
  for (const [body, message] of cases) {
    const response = await post(body);
    const { error } = (await response.json()) as {
      error: { message: string; type: string; code: string; param: string | null };
    };
    t.equal(response.status, 400, JSON.stringify(body));
    t.match(error.message, message, 'the message names the field');
    t.match(error, { type: 'invalid_request_error', code: 'invalid_request' });
    const [, field, missing] = /^body\.([\w.]+) (?:must have required property '(\w+)')?/.exec(error.message) ?? [];
    const param = missing === undefined ? field : `${field}.${missing}`;
    if (param !== undefined) t.equal(error.param, param.replace(/\.(\d+)/g, '[$1]'), 'param is the field');
    t.equal(response.headers.get('x-should-retry'), 'false');
  }
  t.equal(upstream.calls.length, 0, 'no upstream call');
});

t.test('null fields are as absent ones, and unknown options reach a provider with the same API', async (t) => {
  const { upstream, post } = await startService(t);
  const nulls = {
    stop: null,
    max_tokens: null,
    temperature: null,
    tools: null,
    tool_choice: null,
    n: null,
    logprobs: false,
    functions: [],
  };
  const unknown = { a_new_option: { level: [1, 'two'] }, stop_token_ids: [1], prompt_cache_key: 'k' };
  const response = await post({ messages: [{ ...USER, name: 'me' }], ...nulls, ...unknown });
  t.equal(response.status, 200);
  const { messages, model, stream, ...options } = JSON.parse(upstream.calls[0]?.body ?? '{}');
  t.same(options, unknown);
  t.ok(messages && model && stream);
});

t.test('an option that could name a URL, a header or a credential is refused', async (t) => {
  const { upstream, post } = await startService(t);
  for (const option of [
    { base_url: 'x' },
    { api_key: 'x' },
    { apiKey: 'x' },
    { api_base: 'x' },
    { extra_headers: { a: 'b' } },
    { headers: {} },
    { authorization: 'x' },
    { webhook: 'x' },
    { access_token: 'x' },
    { plugin: { id: 'web', endpoint: 'x' } },
    { plugins: [{ id: 'web', options: { 'image-url': 'x' } }] },
    { harmless: 'https://evil.example/' },
    { harmless: ['ok', { deep: ' FTP://evil.example' }] },
  ]) {
    const response = await post({ messages: [USER], ...option });
    t.equal(response.status, 400, JSON.stringify(option));
    const { error } = (await response.json()) as { error: { message: string; param: string } };
    t.match(error.message, /^\w+ is not supported, because it could name a URL, a header or a credential\.$/);
    t.equal(error.param, Object.keys(option)[0]);
  }
  t.equal(upstream.calls.length, 0);
});

t.test('every error under /v1 has the format of OpenAI', async (t) => {
  const { url, post } = await startService(t);
  const postRaw = (body: string, type: string) =>
    fetch(`${url}/v1/chat/completions`, { method: 'POST', headers: { 'content-type': type }, body });
  const responses: [Response, number, string][] = [
    [await postRaw('{"messages":', 'application/json'), 400, 'invalid_request'],
    [await postRaw('x', 'text/plain'), 415, 'invalid_request'],
    [await fetch(`${url}/v1/chat/completions`), 405, 'method_not_allowed'],
    [await fetch(`${url}/v1/embeddings`, { method: 'POST' }), 404, 'not_found'],
    [await fetch(`${url}/v1/models/no%2Fsuch`), 404, 'not_found'],
    [await post({ messages: [USER], model: 'no/such' }), 404, 'not_found'],
  ];
  for (const [response, status, code] of responses) {
    t.equal(response.status, status, response.url);
    t.match(await response.json(), { error: { message: String, type: 'invalid_request_error', param: null, code } });
  }
  const elsewhere = await fetch(`${url}/v2`);
  t.match(await elsewhere.json(), { error: { requestId: String } }, 'an error elsewhere has the format of Sluice');
});

t.test('the same idempotency key returns the same answer, and rejects another question', async (t) => {
  const { upstream, post } = await startService(t);
  const headers = { 'idempotency-key': 'k1' };
  const ids = [];
  for (let i = 0; i < 2; i++)
    ids.push(((await (await post({ messages: [USER] }, headers)).json()) as { id: string }).id);
  t.equal(ids[0], ids[1], 'the same answer');
  t.equal((await post({ messages: [{ ...USER, content: 'other' }] }, headers)).status, 409, 'another question');
  t.equal(upstream.calls.length, 1, 'one upstream call');
});

t.test('a stream without content starts after one heartbeat interval', async (t) => {
  const upstream = await startUpstream(t, silent);
  const clock = manualClock();
  const { url } = await serve(t, { clock, env: bellaAt(upstream.url) });
  const reading = open(`${url}/v1/chat/completions`, { body: { messages: [USER], stream: true } });
  await upstream.call(1);
  clock.advance(15_000);
  const { response, cut } = await reading;
  t.equal(response.statusCode, 200);
  t.match(response.headers['x-sluice-stream'], /^[\w-]{22}$/);
  cut();
  await until(() => {
    clock.advance(1);
    return upstream.calls[0]?.closedAt !== undefined;
  }, 'the upstream call has ended');
});

t.test('a stop of an answer that is not streamed returns the text so far', async (t) => {
  const upstream = await startUpstream(t, unfinishedAnswer('one '));
  const { url } = await serve(t, { env: bellaAt(upstream.url) });
  const whole = postJson(`${url}/v1/chat/completions`, { messages: [USER] }, { 'idempotency-key': 'k1' });
  await upstream.call(1);
  const streamed = await open(`${url}/v1/chat/completions`, {
    body: { messages: [USER], stream: true },
    headers: { 'idempotency-key': 'k1' },
  });
  const id = streamed.response.headers['x-sluice-stream'];
  await fetch(`${url}/streams/${id}/stop`, { method: 'POST' });
  const answer = await (await whole).json();
  t.match(answer, { choices: [{ message: { content: 'one ' }, finish_reason: 'stop' }] });
});

t.test('a question with the same key after a cut continues the running answer', async (t) => {
  const upstream = await startUpstream(t, unfinishedAnswer('one '));
  const { url } = await serve(t, { env: bellaAt(upstream.url) });
  const openStream = () =>
    open(`${url}/v1/chat/completions`, {
      body: { messages: [USER], stream: true },
      headers: { 'idempotency-key': 'k' },
    });
  const first = await openStream();
  first.cut();
  const second = await openStream();
  (await upstream.call(1)).response.end(text('two') + STOP + DONE);
  await second.ended;
  const received = second.events.map(({ json }) => json?.choices?.[0]?.delta?.content ?? '').join('');
  t.equal(received, 'one two');
  t.equal(upstream.calls.length, 1, 'one upstream call');
});

t.test('a missing field is named, also as param', async (t) => {
  const { post } = await startService(t);
  const response = await post({ messages: [USER, { role: 'user' }] });
  t.equal(response.status, 400);
  t.match(await response.json(), { error: { param: 'messages[1].content', message: /required property 'content'/ } });
});

t.test('every label of UTF-8 is accepted, other encodings are not', async (t) => {
  const { post } = await startService(t);
  const statusOf = async (charset: string) =>
    (await post({ messages: [USER] }, { 'content-type': `application/json; charset=${charset}` })).status;
  for (const label of ['utf-8', 'UTF-8', 'utf8', '"utf8"', 'unicode-1-1-utf-8', 'x-unicode20utf8']) {
    t.equal(await statusOf(label), 200, label);
  }
  for (const label of ['latin1', 'utf-16', 'utf-7', 'x']) t.equal(await statusOf(label), 415, label);
});

t.test('a refusal has a field of its own, there and back, and names and allowed tools reach a chat API', async (t) => {
  const upstream = await startUpstream(t, ({ response }) => {
    sse(response).end(chunk({ refusal: 'I ' }) + chunk({ refusal: 'cannot.' }) + STOP + DONE);
  });
  const { url } = await serve(t, { env: bellaAt(upstream.url) });
  const body = {
    messages: [
      { ...USER, name: 'Ann' },
      { role: 'assistant', content: null, refusal: 'No.', name: 'Bot' },
      { role: 'system', content: 's', name: 'Op' },
      USER,
    ],
    tools: [TOOL, { type: 'function', function: { name: 'g' } }],
    tool_choice: allowed('g'),
  };
  const whole = await (await postJson(`${url}/v1/chat/completions`, body)).json();
  t.match(whole, { choices: [{ message: { content: null, refusal: 'I cannot.' }, finish_reason: 'stop' }] });
  const streamed = await open(`${url}/v1/chat/completions`, { body: { ...body, stream: true } });
  t.equal(await streamed.ended, true);
  const deltas = streamed.events.flatMap(({ json }) => (json ? [json.choices[0].delta] : []));
  t.equal(deltas.map(({ refusal = '' }) => refusal).join(''), 'I cannot.');
  t.equal(deltas.map(({ content = '' }) => content).join(''), '');
  t.match(JSON.parse(upstream.calls[0]?.body ?? ''), {
    messages: [
      { role: 'user', name: 'Ann' },
      { role: 'assistant', content: 'No.', name: 'Bot' },
      { role: 'system', name: 'Op' },
      { role: 'user', name: undefined },
    ],
    tools: [{ function: { name: 'g' } }],
    tool_choice: 'required',
  });
  const own = await open(`${url}/ask/stream?question=q`);
  t.match((await own.until('end')).json, { answer: 'I cannot.', finishReason: 'stop' }, 'elsewhere it is text');
});

t.test('a body with a photo is accepted, a body above the limit gets 413', async (t) => {
  const { upstream, url, post } = await startService(t);
  const image = {
    type: 'image_url',
    image_url: { url: `data:image/png;base64,${'A'.repeat(2_000_000)}`, detail: 'low' },
  };
  t.equal((await post({ messages: [{ role: 'user', content: [image] }] })).status, 200);
  t.match(JSON.parse(upstream.calls[0]?.body ?? '').messages[0].content[0], { image_url: { detail: 'low' } });
  t.equal((await post({ messages: [{ ...USER, content: 'x'.repeat(17_000_000) }] })).status, 413);
  const question = 'x'.repeat(1_100_000);
  t.equal((await postJson(`${url}/ask/stream`, { question })).status, 413, 'the limit of other routes is lower');
});

t.test('nulls and default values that typed clients send are accepted', async (t) => {
  const { upstream, post } = await startService(t);
  const tool = { type: 'function', function: { name: 'f', description: null, parameters: null, strict: true } };
  const calls = [{ id: 'c', type: 'function', function: { name: 'f', arguments: '{}' } }];
  const response = await post({
    model: null,
    messages: [
      { role: 'user', content: [{ type: 'text', text: 'q', image_url: null }], tool_call_id: null, tool_calls: null },
      { role: 'assistant', content: [{ type: 'refusal', refusal: 'no' }], tool_calls: calls, reasoning_content: 'hm' },
      { role: 'tool', tool_call_id: 'c', content: [{ type: 'text', text: 'done' }] },
    ],
    stream_options: { include_usage: null },
    logprobs: false,
    top_logprobs: 0,
    resumable: null,
    tools: [tool],
  });
  t.equal(response.status, 200);
  t.match(JSON.parse(upstream.calls[0]?.body ?? ''), {
    messages: [{ role: 'user' }, { role: 'assistant', content: 'no', reasoning_content: 'hm' }, { content: 'done' }],
    tools: [{ function: { name: 'f', strict: true } }],
  });
});

t.test('pipelined requests on a connection that is cut are cancelled', async (t) => {
  const upstream = await startUpstream(t, silent);
  const { app, url } = await serve(t, { env: bellaAt(upstream.url) });
  for (const stream of [true, false]) {
    const client = connect(Number(new URL(url).port), '127.0.0.1');
    const body = JSON.stringify({ messages: [USER], stream });
    const request = `POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
    const before = upstream.calls.length;
    client.write(request + request);
    await upstream.call(before + 2);
    client.destroy();
    await until(
      () => app.streams.active === 0 && app.responses.open === 0,
      'no response is open and no generation is running',
    );
    t.pass(stream ? 'streaming' : 'not streaming');
  }
});
