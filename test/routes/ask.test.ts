import type { InjectOptions } from 'fastify';
import t from 'tap';
import { bellaAt, build, serve } from '../helper.ts';
import { deltaText, open, readAll } from '../sse-client.ts';
import { chunk, completeAnswer, DONE, type Script, sse, startUpstream, text } from '../upstream.ts';

const ANSWER = ['你好', ' 🚀', ' "quoted"', '\n\r\u2028', ' \\ end'];

t.test('GET /ask/stream streams the answer as start, deltas and end, from one upstream call', async (t) => {
  const upstream = await startUpstream(t, completeAnswer(...ANSWER));
  const { url } = await serve(t, { env: bellaAt(upstream.url) });
  const reading = await readAll(`${url}/ask/stream?question=${encodeURIComponent('你好?')}&system=Be+brief`);

  t.equal(reading.response.statusCode, 200);
  t.match(reading.response.headers, {
    'content-type': 'text/event-stream; charset=utf-8',
    'cache-control': 'no-cache, no-transform',
    'x-accel-buffering': 'no',
    incremental: '?1',
    'x-request-id': /.+/,
  });
  const [start, ...rest] = reading.events;
  const id = start?.json.stream as string;
  t.match(start?.json, { type: 'start', model: 'bella/gpt-4o' });
  t.ok(Buffer.from(id, 'base64url').length >= 16, 'an id of at least 128 bits');
  t.ok((reading.retry ?? 0) >= 500 && (reading.retry ?? 0) <= 1_500, 'retry is 500 to 1,500 ms');
  t.equal(deltaText(reading), ANSWER.join(''), 'the deltas add up to the answer');
  t.match(rest.at(-1)?.json, { type: 'end', answer: ANSWER.join(''), model: 'bella/gpt-4o', finishReason: 'stop' });
  t.ok(
    reading.events.every(({ event }) => event === 'message'),
    'every event is unnamed',
  );

  const ids = reading.events.map((event) => event.id);
  t.ok(
    ids.every((eventId) => eventId.startsWith(`${id}.`)),
    'every event id starts with the stream id',
  );
  t.equal(ids.at(-1), `${id}.end`, 'the id of the last event');
  const positions = ids.slice(0, -1).map((eventId) => Number(eventId.slice(id.length + 1)));
  t.same(
    positions,
    [...new Set(positions)].sort((a, b) => a - b),
    'positions strictly increase',
  );

  t.equal(upstream.calls.length, 1);
  const [call] = upstream.calls;
  t.equal(call?.request.url, '/v1/chat/completions');
  t.equal(call?.request.headers.authorization, 'Bearer test-key');
  t.match(JSON.parse(call?.body ?? ''), {
    model: 'gpt-4o',
    stream: true,
    messages: [
      { role: 'system', content: 'Be brief' },
      { role: 'user', content: '你好?' },
    ],
  });
});

t.test('POST /ask/stream sends messages and options to the provider', async (t) => {
  const upstream = await startUpstream(t, completeAnswer('yes'));
  const { url } = await serve(t, { env: bellaAt(upstream.url) });
  const messages = [
    { role: 'user', content: 'one' },
    { role: 'assistant', content: 'two' },
    { role: 'user', content: 'three' },
  ];
  const body = { messages, system: 'S', model: 'bella/gpt-4o', temperature: 0.2, maxTokens: 5, stop: ['END'] };
  const reading = await readAll(`${url}/ask/stream`, { body });
  t.equal(reading.events.at(-1)?.json.answer, 'yes');
  t.match(JSON.parse(upstream.calls[0]?.body ?? ''), {
    messages: [{ role: 'system', content: 'S' }, ...messages],
    temperature: 0.2,
    max_tokens: 5,
    stop: ['END'],
  });
  t.equal((await readAll(`${url}/ask/stream`, { body: { question: 'q' } })).events.at(-1)?.json.answer, 'yes');
});

t.test('reasoning, text, tool calls, usage and finish reason are delivered in order', async (t) => {
  const script: Script = ({ response }) => {
    const toolCall = (fn: object, id?: string) =>
      chunk({ tool_calls: [{ index: 0, ...(id && { id }), function: fn }] });
    sse(response).end(
      chunk({ reasoning_content: 'thin' }) +
        chunk({ reasoning_content: 'king' }) +
        text('a') +
        toolCall({ name: 'add', arguments: '' }, 'call_1') +
        toolCall({ arguments: '{"a"' }) +
        toolCall({ arguments: ':1}' }) +
        chunk({}, 'tool_calls', { usage: { prompt_tokens: 3, completion_tokens: 4, total_tokens: 7 } }) +
        DONE,
    );
  };
  const upstream = await startUpstream(t, script);
  const { url } = await serve(t, { env: bellaAt(upstream.url) });
  const { events } = await readAll(`${url}/ask/stream?question=q`);
  t.same(
    events.slice(1).map(({ json }) => json),
    [
      { type: 'reasoning', content: 'thinking' },
      { type: 'delta', content: 'a' },
      { type: 'tool_call', index: 0, id: 'call_1', name: 'add', arguments: '{"a":1}' },
      {
        type: 'end',
        answer: 'a',
        model: 'bella/gpt-4o',
        finishReason: 'tool_calls',
        usage: { inputTokens: 3, outputTokens: 4, totalTokens: 7 },
      },
    ],
  );
});

t.test('headers and the start event are sent before the upstream answers', async (t) => {
  const upstream = await startUpstream(t, () => {});
  const { url } = await serve(t, { env: bellaAt(upstream.url) });
  const reading = await open(`${url}/ask/stream?question=q`);
  await reading.until('start');
  t.equal((await upstream.call(1)).response.headersSent, false);
  reading.cut();
});

t.test('an upstream failure ends the stream with one error event, after the text so far', async (t) => {
  const scripts: Record<string, Script> = {
    upstream_error: ({ response }) =>
      void sse(response).end(`${text('partial')}data: {"error":{"message":"SECRET"}}\n\n${DONE}`),
    upstream_truncated: ({ response }) => void sse(response).end(text('partial')),
    upstream_protocol: ({ response }) => void sse(response).end(`${text('partial')}data: {]\n\n`),
    upstream_failed: ({ response }) => void response.writeHead(503, { 'retry-after': '17' }).end('SECRET'),
    upstream_rejected: ({ response }) => void response.writeHead(404).end('{"error":{"message":"SECRET model"}}'),
    upstream_rate_limited: ({ response }) => void response.writeHead(429, { 'retry-after': '13' }).end('{}'),
  };
  const names = Object.keys(scripts);
  const upstream = await startUpstream(t, (call) => scripts[JSON.parse(call.body).messages[0].content]?.(call));
  const { url } = await serve(t, { env: bellaAt(upstream.url) });
  for (const name of names) {
    const { events } = await readAll(`${url}/ask/stream?question=${name}`);
    const terminals = events.filter(({ json }) => ['end', 'error'].includes(json.type));
    t.equal(terminals.length, 1, `${name}: one terminal event`);
    t.match(terminals[0]?.json, { type: 'error', code: name, message: /^[^S]/ });
    t.match(terminals[0]?.id, /\.end$/, `${name}: the id ends with .end`);
    t.notMatch(JSON.stringify(events), /SECRET/, `${name}: the provider's message is not exposed`);
    t.same(
      events.slice(1, -1).map(({ json }) => json.content),
      ['upstream_failed', 'upstream_rate_limited', 'upstream_rejected'].includes(name) ? [] : ['partial'],
      `${name}: the text before the failure`,
    );
    if (name === 'upstream_failed') t.match(terminals[0]?.json, { retryable: true, retryAfter: 17 });
    if (name === 'upstream_rejected') t.match(terminals[0]?.json, { retryable: false });
  }
});

t.test('an invalid request gets a JSON error and starts no stream', async (t) => {
  const upstream = await startUpstream(t, completeAnswer('x'));
  const app = await build(t, { env: bellaAt(upstream.url) });
  const json = { 'content-type': 'application/json' };
  const cases: [string, number, string, InjectOptions][] = [
    ['no question', 400, 'invalid_request', { url: '/ask/stream' }],
    ['an empty question', 400, 'invalid_request', { url: '/ask/stream?question=' }],
    ['two questions', 400, 'invalid_request', { url: '/ask/stream?question=a&question=b' }],
    ['an unknown field', 400, 'invalid_request', { url: '/ask/stream?question=a&qestion=b' }],
    [
      'a model name with path segments',
      400,
      'invalid_request',
      { url: '/ask/stream?question=a&model=bella/..%2f..%2ffiles' },
    ],
    ['a model that is not configured', 404, 'not_found', { url: '/ask/stream?question=a&model=bella/other' }],
    [
      'another Accept',
      406,
      'invalid_request',
      { url: '/ask/stream?question=a', headers: { accept: 'application/json' } },
    ],
    ['HEAD', 405, 'method_not_allowed', { url: '/ask/stream?question=a', method: 'HEAD' }],
    ['PUT', 405, 'method_not_allowed', { url: '/ask/stream', method: 'PUT' }],
    ['TRACE', 405, 'method_not_allowed', { url: '/ask/stream', method: 'TRACE' as 'GET' }],
    ['another path', 404, 'not_found', { url: '/nothing/here?question=SECRET' }],
    ['a bad URL', 400, 'invalid_request', { url: '/ask/%zz' }],
    [
      'a body that is not JSON',
      400,
      'invalid_request',
      { url: '/ask/stream', method: 'POST', headers: json, payload: '{"question": SECRET' },
    ],
    ['an empty body', 400, 'invalid_request', { url: '/ask/stream', method: 'POST', headers: json, payload: '' }],
    [
      'a body of another type',
      415,
      'invalid_request',
      { url: '/ask/stream', method: 'POST', headers: { 'content-type': 'text/plain' }, payload: 'SECRET' },
    ],
    [
      'a body that is too large',
      413,
      'invalid_request',
      {
        url: '/ask/stream',
        method: 'POST',
        headers: json,
        payload: JSON.stringify({ question: 'x'.repeat(1_100_000) }),
      },
    ],
    ['neither question nor messages', 400, 'invalid_request', { url: '/ask/stream', method: 'POST', payload: {} }],
    [
      'question and messages',
      400,
      'invalid_request',
      { url: '/ask/stream', method: 'POST', payload: { question: 'a', messages: [{ role: 'user', content: 'b' }] } },
    ],
    ['no message', 400, 'invalid_request', { url: '/ask/stream', method: 'POST', payload: { messages: [] } }],
    [
      'an unknown role',
      400,
      'invalid_request',
      { url: '/ask/stream', method: 'POST', payload: { messages: [{ role: 'SECRET', content: 'b' }] } },
    ],
    [
      'a field that would name a URL',
      400,
      'invalid_request',
      { url: '/ask/stream', method: 'POST', payload: { question: 'a', base_url: 'http://SECRET' } },
    ],
    [
      'a temperature of the wrong type',
      400,
      'invalid_request',
      { url: '/ask/stream', method: 'POST', payload: { question: 'a', temperature: '1' } },
    ],
    [
      'a token limit that is not an integer',
      400,
      'invalid_request',
      { url: '/ask/stream', method: 'POST', payload: { question: 'a', maxTokens: 1.5 } },
    ],
    [
      '__proto__',
      400,
      'invalid_request',
      { url: '/ask/stream', method: 'POST', headers: json, payload: '{"question":"a","__proto__":{"x":1}}' },
    ],
  ];
  for (const [name, status, code, request] of cases) {
    const response = await app.inject(request);
    t.equal(response.statusCode, status, `${name}: ${status}`);
    t.equal(response.headers['content-type'], 'application/json; charset=utf-8', `${name}: JSON`);
    if (name !== 'HEAD') {
      const { error } = response.json();
      t.equal(error.code, code, `${name}: ${code}`);
      t.same(Object.keys(error), ['code', 'message', 'requestId']);
      t.equal(error.requestId, response.headers['x-request-id'] ?? error.requestId);
      t.notMatch(response.body, /SECRET|\bat .*:\d+/, `${name}: no echo, no stack`);
    }
    if (status === 405) t.equal(response.headers.allow, 'GET, POST, OPTIONS', `${name}: Allow`);
  }
  t.match(
    (await app.inject('/ask/stream?question=a&model=x')).json().error.message,
    'bella/gpt-4o',
    'the message names the configured model',
  );
  t.match(
    (await app.inject('/ask/stream?question=a&qestion=b')).json().error.message,
    'qestion',
    'the message names the unknown field',
  );
  t.equal(upstream.calls.length, 0, 'no upstream call');
});

t.test('a valid x-request-id is kept, an invalid one is replaced', async (t) => {
  const app = await build(t);
  const requestIdFor = async (sent: string) =>
    (await app.inject({ url: '/livez', headers: { 'x-request-id': sent } })).headers['x-request-id'];
  t.equal(await requestIdFor('trace-1.2_3'), 'trace-1.2_3');
  t.match(await requestIdFor('a b'), /^[0-9a-f-]{36}$/);
  t.match(await requestIdFor('x'.repeat(1_000)), /^[0-9a-f-]{36}$/);
});

t.test('a GET that a gateway repeats under its request id is one question; other questions are others', async (t) => {
  for (const [trustProxy, callsOfTwo] of [
    ['1', 1],
    ['0', 2],
    ['', 2],
  ] as const) {
    const upstream = await startUpstream(t, completeAnswer('x'));
    const { url } = await serve(t, { env: bellaAt(upstream.url, { TRUST_PROXY: trustProxy }) });
    const headers = { 'x-request-id': 'same' };
    const ask = (query: string) => readAll(`${url}/ask/stream?${query}`, { headers });
    await ask('question=a');
    await ask('question=a');
    t.equal(upstream.calls.length, callsOfTwo, `TRUST_PROXY=${trustProxy}`);
    const other = await ask('question=b');
    t.equal(other.response.statusCode, 200, 'a caller whose id is passed on may ask several questions under it');
    t.equal(other.events.at(-1)?.json.type, 'end');
    t.equal(upstream.calls.length, callsOfTwo + 1);
  }
});

t.test('BASE_PATH prefixes every path, and only CORS_ORIGINS get CORS headers', async (t) => {
  const app = await build(t, {
    env: { BASE_PATH: '/sluice', CORS_ORIGINS: 'https://page.example, https://other.example, tauri://localhost' },
  });
  t.equal((await app.inject('/sluice/livez')).statusCode, 200);
  t.equal((await app.inject('/livez')).statusCode, 404);
  const allowedOrigin = async (value: string) =>
    (await app.inject({ url: '/sluice/livez', headers: { origin: value } })).headers['access-control-allow-origin'];
  t.equal(await allowedOrigin('https://page.example'), 'https://page.example');
  t.equal(await allowedOrigin('tauri://localhost'), 'tauri://localhost', 'an app');
  t.equal(await allowedOrigin('https://evil.example'), undefined);
  t.equal(await allowedOrigin('tauri://localhost.evil'), undefined);
  const preflight = await app.inject({
    method: 'OPTIONS',
    url: '/sluice/ask/stream',
    headers: { origin: 'https://page.example', 'access-control-request-method': 'POST' },
  });
  t.equal(preflight.statusCode, 204);
});
