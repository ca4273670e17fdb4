import { connect } from 'node:net';
import t, { type Test } from 'tap';
import { bellaAt, serve, until } from '../helper.ts';
import { manualClock } from '../manual-clock.ts';
import { open } from '../sse-client.ts';
import { completeAnswer, DONE, STOP, silent, startUpstream, text, unfinishedAnswer } from '../upstream.ts';

/** What the OpenAI endpoint refuses, and how; the SDKs themselves are in `test/sdk/`. */

const USER = { role: 'user', content: 'q' };

/** Written by hand, since `JSON.stringify` is no deeper than its stack. */
const nested = (depth: number) => ({ toJSON: () => JSON.parse(`${'['.repeat(depth)}${']'.repeat(depth)}`) });

async function service(t: Test) {
  const upstream = await startUpstream(t, completeAnswer('x'));
  const { url } = await serve(t, { env: bellaAt(upstream.url) });
  const post = (body: unknown, headers = {}) =>
    fetch(`${url}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...headers },
      body: typeof body === 'string' ? body : JSON.stringify(body),
    });
  return { upstream, url, post };
}

t.test('what cannot be asked here is a clear 400', async (t) => {
  const { upstream, post } = await service(t);
  const cases: [object, RegExp][] = [
    [{ messages: [USER], n: 2 }, /^n other than 1/],
    [{ messages: [USER], logprobs: true }, /^logprobs is not supported/],
    [{ messages: [USER], functions: [] }, /^functions is not supported/],
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
    [{ messages: [USER], temperature: 3 }, /temperature/],
    [{ messages: [USER], max_tokens: 1.5 }, /max_tokens/],
    [{ messages: [USER], tool_choice: 'maybe' }, /tool_choice/],
    [{ messages: [USER], model: '../../etc' }, /model/],
    [{ messages: [USER], response_format: nested(1_000) }, /nested too deeply/],
  ];
  for (const [body, message] of cases) {
    const response = await post(body);
    const { error } = (await response.json()) as {
      error: { message: string; type: string; code: string; param: null };
    };
    t.equal(response.status, 400, JSON.stringify(body));
    t.match(error.message, message);
    t.match(error, { type: 'invalid_request_error', param: null, code: 'invalid_request' });
    t.equal(response.headers.get('x-should-retry'), 'false');
  }
  t.equal(upstream.calls.length, 0, 'nobody was asked');
});

t.test('nulls and unknown fields are as good as absent', async (t) => {
  const { upstream, post } = await service(t);
  const nulls = {
    stop: null,
    max_tokens: null,
    temperature: null,
    tools: null,
    tool_choice: null,
    n: null,
    logprobs: false,
  };
  const response = await post({
    messages: [{ ...USER, name: 'me' }],
    ...nulls,
    base_url: 'http://evil.example',
    api_key: 'x',
    headers: { a: 'b' },
  });
  t.equal(response.status, 200);
  t.same(Object.keys(JSON.parse(upstream.calls[0]?.body ?? '')).sort(), ['messages', 'model', 'stream']);
});

t.test('every error under /v1 has the form that the SDKs read', async (t) => {
  const { url, post } = await service(t);
  const responses: [Response, number, string][] = [
    [await post('{"messages":'), 400, 'invalid_request'],
    [await post('x', { 'content-type': 'text/plain' }), 415, 'invalid_request'],
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
  t.match(await elsewhere.json(), { error: { requestId: String } }, 'and elsewhere ours');
});

t.test('the same key is the same answer', async (t) => {
  const { upstream, post } = await service(t);
  const headers = { 'idempotency-key': 'k1' };
  const ids = [];
  for (let i = 0; i < 2; i++)
    ids.push(((await (await post({ messages: [USER] }, headers)).json()) as { id: string }).id);
  t.equal(ids[0], ids[1]);
  t.equal((await post({ messages: [{ ...USER, content: 'other' }] }, headers)).status, 409);
  t.equal(upstream.calls.length, 1);
});

t.test('a model that thinks for long: the stream begins within a heartbeat', async (t) => {
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

t.test('stopping an answer that does not stream gives what there is', async (t) => {
  const upstream = await startUpstream(t, unfinishedAnswer('one '));
  const { url } = await serve(t, { env: bellaAt(upstream.url) });
  const asking = fetch(`${url}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', 'idempotency-key': 'k1' },
    body: JSON.stringify({ messages: [USER] }),
  });
  await upstream.call(1);
  const same = await open(`${url}/v1/chat/completions`, {
    body: { messages: [USER], stream: true },
    headers: { 'idempotency-key': 'k1' },
  });
  const id = same.response.headers['x-sluice-stream'];
  await fetch(`${url}/streams/${id}/stop`, { method: 'POST' });
  const answer = await (await asking).json();
  t.match(answer, { choices: [{ message: { content: 'one ' }, finish_reason: 'stop' }] });
});

t.test('asking again by key after a cut finds the answer still running', async (t) => {
  const upstream = await startUpstream(t, unfinishedAnswer('one '));
  const { url } = await serve(t, { env: bellaAt(upstream.url) });
  const ask = () =>
    open(`${url}/v1/chat/completions`, {
      body: { messages: [USER], stream: true },
      headers: { 'idempotency-key': 'k' },
    });
  const first = await ask();
  first.cut();
  const again = await ask();
  (await upstream.call(1)).response.end(text('two') + STOP + DONE);
  await again.ended;
  const said = again.events.map(({ json }) => json?.choices?.[0]?.delta?.content ?? '').join('');
  t.equal(said, 'one two');
  t.equal(upstream.calls.length, 1);
});

t.test('a photo fits, a body without end does not', async (t) => {
  const { upstream, url, post } = await service(t);
  const image = {
    type: 'image_url',
    image_url: { url: `data:image/png;base64,${'A'.repeat(2_000_000)}`, detail: 'low' },
  };
  t.equal((await post({ messages: [{ role: 'user', content: [image] }] })).status, 200);
  t.match(JSON.parse(upstream.calls[0]?.body ?? '').messages[0].content[0], { image_url: { detail: 'low' } });
  t.equal((await post({ messages: [{ ...USER, content: 'x'.repeat(17_000_000) }] })).status, 413);
  const body = JSON.stringify({ question: 'x'.repeat(1_100_000) });
  const headers = { 'content-type': 'application/json' };
  t.equal((await fetch(`${url}/ask/stream`, { method: 'POST', headers, body })).status, 413, 'elsewhere less');
});

t.test('what typed clients write where they mean nothing', async (t) => {
  const { upstream, post } = await service(t);
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

t.test('a pipelined request that is cut leaves nothing behind', async (t) => {
  const upstream = await startUpstream(t, silent);
  const { app, url } = await serve(t, { env: bellaAt(upstream.url) });
  for (const stream of [true, false]) {
    const client = connect(Number(new URL(url).port), '127.0.0.1');
    const body = JSON.stringify({ messages: [USER], stream });
    const request = `POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
    const before = upstream.calls.length;
    client.write(request + request);
    await upstream.call(before + 2);
    client.destroy();
    await until(() => app.streams.active === 0 && app.responses.open === 0, 'all is free');
    t.pass(stream ? 'streaming' : 'whole');
  }
});
