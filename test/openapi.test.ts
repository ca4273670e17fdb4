import { createHash } from 'node:crypto';
import { Validator } from '@seriousme/openapi-schema-validator';
import type { InjectOptions } from 'fastify';
import t, { type Test } from 'tap';
import { launch, noBrowser } from './browser.ts';
import { bellaAt, build, serve, until } from './helper.ts';
import { callAndCheck, createChecker, gapsOf, operationsOf, readDocument } from './openapi-document.ts';
import { chunk, DONE, STOP, sse, startUpstream, text } from './upstream.ts';

/** The OpenAPI document: valid, complete and true. */

t.test('the document is valid and complete', async (t) => {
  const app = await build(t);
  const document = await readDocument(app);
  t.same(await new Validator().validate({ ...document }), { valid: true });
  t.same(gapsOf(document), []);
  const operations = operationsOf(document);
  t.equal(operations.size, 23);
  t.equal(new Set([...operations.values()].map(({ operationId }) => operationId)).size, 23);
  t.same(
    Object.keys(document.paths).filter((path) => /docs|vendor|\.(js|css)/.test(path)),
    [],
    'files are not in it',
  );
  for (const name of Object.keys(document.components.schemas)) t.match(name, /^[A-Z]/, 'shared schemas keep names');
});

t.test('a route without summary, tags and schemas is found', async (t) => {
  const app = await build(t);
  app.get('/bare', async () => ({}));
  app.get('/half', { schema: { summary: 'x', tags: ['x'], security: [] } }, async () => ({}));
  t.same(gapsOf(await readDocument(app)), [
    'get /bare has no summary',
    'get /bare has no tags',
    'get /bare has no security',
    'get /bare has no schema of a 2xx answer',
    'get /bare has no schema of a 4xx answer',
    'get /half has no schema of a 2xx answer',
    'get /half has no schema of a 4xx answer',
  ]);
});

t.test('a ticket is accepted where the document says so', async (t) => {
  const { app, operations } = await serviceWithKeys(t);
  const post = (url: string, payload: object) => app.inject({ method: 'POST', url, headers: KEY, payload });
  const { id, url } = (await post('/streams', { question: 'q' })).json();
  const { ticket } = (await post('/tickets', {})).json();
  for (const [name, { security = [] }] of operations) {
    const [method = '', path = ''] = name.split(' ');
    const query = path.startsWith('/streams/') ? url.split('?')[1] : `question=q&ticket=${ticket}`;
    const { statusCode } = await app.inject({
      method: method.toUpperCase() as 'GET',
      url: `${path.replace('{id}', id)}?${query}`,
    });
    const isAccepted = security.length === 0 || security.some((scheme) => 'ticket' in scheme);
    t.equal(statusCode !== 401, isAccepted, `${name} ${statusCode}`);
  }
});

t.test('BASE_PATH is the server of the document', async (t) => {
  const app = await build(t, { env: { BASE_PATH: '/sluice' } });
  const { servers, paths } = await readDocument(app, '/sluice/openapi.json');
  t.same(servers, [{ url: '/sluice' }]);
  t.ok(paths['/ask/stream']);
});

t.test('the number of messages is the configured one', async (t) => {
  const file = `${t.testdir({ 'c.yaml': 'limits: { messages: 2 }' })}/c.yaml`;
  const app = await build(t, { env: { CONFIG_FILE: file } });
  const document = JSON.stringify(await readDocument(app));
  t.equal(document.match(/"minItems":1,"maxItems":2\b/g)?.length, 5);
  const message = { role: 'user', content: 'x', parts: [{ type: 'text', text: 'x' }] };
  for (const url of ['/ask/stream', '/streams', '/v1/chat/completions', '/ui/chat', '/agui']) {
    const { parts: _, ...plain } = message;
    const messages = Array(3).fill(url.startsWith('/ui') ? message : plain);
    const response = await app.inject({
      method: 'POST',
      url,
      payload: { ...(url === '/agui' && { threadId: 't', runId: 'r' }), messages },
    });
    t.equal(response.statusCode, 400, url);
    t.equal(response.json().error.message, 'Too many messages; at most 2 are allowed.', url);
  }
});

t.test('question or messages, and no message without its fields', async (t) => {
  const app = await build(t);
  const messages = [{ role: 'user', content: 'x' }];
  const cases: [url: string, body: object, message: RegExp][] = [
    ['/streams', {}, /^Send either question or messages\.$/],
    ['/ask/stream', { question: 'x', messages }, /^Send either question or messages\.$/],
    ['/ask/stream', { qestion: 'x' }, /^Unknown field in body: qestion\.$/],
    ['/ask/stream', { question: 1, messages }, /^body\.question must be string\.$/],
    ['/v1/chat/completions', { messages: [{ role: 'tool' }] }, /^body\.messages\.0 must have .*'tool_call_id'\.$/],
    ['/v1/chat/completions', { messages: [{ role: 'tool', tool_call_id: null }] }, /^body\.messages\.0\.tool_call_id/],
    ['/v1/chat/completions', { messages: [{ role: 'user' }] }, /^body\.messages\.0 must have .*'content'\.$/],
    ['/v1/chat/completions', { messages: [{ role: 'user', content: null }] }, /^body\.messages\.0\.content/],
  ];
  const operations = operationsOf(await readDocument(app));
  const check = await createChecker(t, await readDocument(app), false);
  for (const [url, payload, message] of cases) {
    const response = await app.inject({ method: 'POST', url, payload });
    t.equal(response.statusCode, 400, JSON.stringify(payload));
    t.match(response.json().error.message, message);
    const schema = operations.get(`post ${url}`)?.requestBody?.content['application/json']?.schema ?? {};
    t.ok(check(schema, payload), 'the document does not allow it either');
  }
  const resumed = await app.inject({
    method: 'POST',
    url: '/ask/stream',
    headers: { 'last-event-id': `${'A'.repeat(22)}.end` },
    payload: {},
  });
  t.equal(resumed.statusCode, 204, 'a body is not needed to resume');
});

const KEY = { authorization: 'Bearer sk-key' };
const LIMITED = { authorization: 'Bearer sk-limited' };
const NARROW = { authorization: 'Bearer sk-narrow' };
const UNKNOWN = 'A'.repeat(22);
/** Unauthenticated requests per minute and address. */
const UNAUTHENTICATED = 50;
/** Statuses that need a slow client, a broken service, or a fault of a provider. */
const NOT_PROVOKED = ['402', '408', '500', '502', '503', '504'];

t.test('answers are as the document says, for every operation and status', async (t) => {
  const { app, operations, check } = await serviceWithKeys(t);
  const { id } = (
    await app.inject({ method: 'POST', url: '/streams', headers: KEY, payload: { question: 'q' } })
  ).json();
  const respond = async (fields: object): Promise<string> => {
    const payload = { input: 'q', ...fields };
    return (await app.inject({ method: 'POST', url: '/v1/responses', headers: KEY, payload })).json().id;
  };
  const [response, foreground, deleted] = await Promise.all([respond({ background: true }), respond({}), respond({})]);
  const messages = [{ role: 'user', content: 'q' }];
  const ui = [{ role: 'user', parts: [{ type: 'text', text: 'q' }] }];
  const run = { threadId: 't', runId: 'r', messages };
  const ended = { 'last-event-id': `${UNKNOWN}.end` };
  const key = { 'idempotency-key': 'k' };
  const tooLarge = 'x'.repeat(1_100_000);
  const chatTooLarge = 'x'.repeat(17_000_000);

  const cases: Record<string, [status: number, request: InjectOptions][]> = {
    'get /livez': [[200, {}]],
    'get /readyz': [
      [200, {}],
      [200, { url: '/readyz?verbose' }],
    ],
    'get /metrics': [[200, {}]],
    'get /ask/stream': [
      [200, { url: '/ask/stream?question=q&key=k' }],
      [204, { url: '/ask/stream?question=q', headers: ended }],
      [404, { url: '/ask/stream?question=q&model=no/such' }],
      [409, { url: '/ask/stream?question=other&key=k' }],
      [400, { url: '/ask/stream' }],
      [200, { url: '/ask/stream?question=tools' }],
      [200, { url: '/ask/stream?question=fail' }],
    ],
    'post /ask/stream': [
      [200, { payload: { question: 'q' } }],
      [409, { headers: key, payload: { question: 'another' } }],
      [204, { headers: ended, payload: { question: 'q' } }],
      [404, { payload: { question: 'q', model: 'no/such' } }],
      [413, { payload: { question: tooLarge } }],
      [400, { payload: {} }],
    ],
    'post /streams': [
      [201, { headers: key, payload: { messages } }],
      [409, { headers: key, payload: { question: 'other' } }],
      [404, { payload: { question: 'q', model: 'no/such' } }],
      [413, { payload: { question: tooLarge } }],
      [400, { payload: {} }],
    ],
    'get /streams/{id}': [
      [200, { url: `/streams/${id}` }],
      [204, { headers: { 'last-event-id': `${id}.end` }, url: `/streams/${id}` }],
      [404, {}],
    ],
    'delete /streams/{id}': [
      [204, { url: `/streams/${id}` }],
      [404, {}],
    ],
    'post /streams/{id}/stop': [
      [204, { url: `/streams/${id}/stop` }],
      [404, {}],
    ],
    'post /tickets': [
      [201, { payload: { seconds: 1 } }],
      [404, { payload: { model: 'no/such' } }],
      [403, { headers: NARROW, payload: { model: 'bella/gpt-4o' } }],
      [413, { payload: { model: tooLarge } }],
      [400, { payload: [] }],
    ],
    'post /ui/chat': [
      [204, { headers: ended, payload: {} }],
      [200, { headers: { 'idempotency-key': 'ui' }, payload: { messages: ui } }],
      [409, { headers: { 'idempotency-key': 'ui' }, payload: { messages: ui, temperature: 1 } }],
      [200, { payload: { messages: [{ role: 'user', parts: [{ type: 'text', text: 'tools' }] }] } }],
      [200, { payload: { messages: [{ role: 'user', parts: [{ type: 'text', text: 'fail' }] }] } }],
      [404, { payload: { messages: ui, model: 'no/such' } }],
      [413, { payload: { messages: ui, system: chatTooLarge } }],
      [400, { payload: {} }],
    ],
    'get /ui/chat/{id}/stream': [[204, {}]],
    'post /v1/chat/completions': [
      [200, { headers: key, payload: { messages } }],
      [409, { headers: key, payload: { messages: [{ role: 'user', content: 'other' }] } }],
      [200, { payload: { messages, stream: true, stream_options: { include_usage: true } } }],
      [200, { payload: { messages: [{ role: 'user', content: 'tools' }] } }],
      [200, { payload: { messages: [{ role: 'user', content: 'tools' }], stream: true } }],
      [200, { payload: { messages: [{ role: 'user', content: 'break' }], stream: true } }],
      [400, { payload: { messages: [{ role: 'user', content: 'reject' }] } }],
      [502, { payload: { messages: [{ role: 'user', content: 'fail' }] } }],
      [404, { payload: { messages, model: 'no/such' } }],
      [413, { payload: { messages, user: chatTooLarge } }],
      [400, { payload: { messages: [] } }],
    ],
    'post /v1/responses': [
      [200, { headers: key, payload: { input: 'q' } }],
      [409, { headers: key, payload: { input: 'other' } }],
      [200, { payload: { input: 'q', stream: true } }],
      [200, { payload: { input: 'q', background: true } }],
      [200, { payload: { input: 'tools' } }],
      [200, { payload: { input: 'tools', stream: true } }],
      [200, { payload: { input: 'break', stream: true } }],
      [400, { payload: { input: 'reject' } }],
      [502, { payload: { input: 'fail' } }],
      [404, { payload: { input: 'q', model: 'no/such' } }],
      [413, { payload: { input: chatTooLarge } }],
      [400, { payload: {} }],
    ],
    'get /v1/responses/{id}': [
      [200, { url: `/v1/responses/${response}` }],
      [200, { url: `/v1/responses/${response}?stream=true&starting_after=1` }],
      [400, { url: `/v1/responses/${response}?starting_after=1` }],
      [404, {}],
    ],
    'get /v1/responses/{id}/input_items': [
      [200, { url: `/v1/responses/${response}/input_items?limit=1&order=asc` }],
      [400, { url: `/v1/responses/${response}/input_items?after=x` }],
      [404, {}],
    ],
    'post /v1/responses/{id}/cancel': [
      [200, { url: `/v1/responses/${response}/cancel` }],
      [400, { url: `/v1/responses/${foreground}/cancel` }],
      [413, { url: `/v1/responses/${response}/cancel`, payload: { x: tooLarge } }],
      [404, {}],
    ],
    'delete /v1/responses/{id}': [
      [200, { url: `/v1/responses/${deleted}` }],
      [404, {}],
    ],
    'post /agui': [
      [200, { payload: run }],
      [200, { payload: { ...run, runId: 'r2', messages: [{ role: 'user', content: 'tools' }] } }],
      [200, { payload: { ...run, runId: 'r3', messages: [{ role: 'user', content: 'fail' }] } }],
      [204, { headers: ended, payload: {} }],
      [409, { payload: { ...run, messages: [{ role: 'user', content: 'other' }] } }],
      [404, { payload: { ...run, forwardedProps: { model: 'no/such' } } }],
      [413, { payload: { ...run, state: chatTooLarge } }],
      [400, { payload: {} }],
    ],
    'get /agui': [
      [200, { url: '/agui?runId=r&offset=-1' }],
      [204, { url: '/agui?threadId=t' }],
      [204, { url: '/agui', headers: ended }],
      [404, { url: '/agui?runId=unknown' }],
      [400, {}],
    ],
    'get /agui/capabilities': [[200, {}]],
    'get /v1/models': [[200, {}]],
    'get /v1/models/{id}': [
      [200, { url: '/v1/models/bella/gpt-4o' }],
      [404, { url: '/v1/models/no/such' }],
    ],
  };
  t.same(Object.keys(cases).sort(), [...operations.keys()].sort(), 'every operation is called');

  for (const [name, operation] of operations) {
    const [verb = '', path = ''] = name.split(' ');
    const method = verb.toUpperCase() as 'GET' | 'POST' | 'DELETE';
    const url = path.replace('{id}', UNKNOWN);
    const isPublic = operation.security?.length === 0;
    const seen = new Set<string>();
    const call = async (status: number, { headers = KEY, ...request }: InjectOptions, what = '') => {
      const options = { method, url, ...request, headers: { ...KEY, ...headers } } as const;
      const { problem, ...got } = await callAndCheck(app, check, operation, options);
      t.equal(got.status, status, `${name} ${what}`);
      t.equal(problem, undefined, `${name} ${status} ${what}`);
      seen.add(String(got.status));
      return got;
    };
    for (const [status, request] of cases[name] ?? []) {
      const { headers } = await call(status, request, request.url as string);
      for (const documented of Object.keys(operation.responses[status]?.headers ?? {})) {
        if (status < 300) t.ok(headers[documented.toLowerCase()], `${name} ${status} has ${documented}`);
      }
    }
    const valid = cases[name]?.[0]?.[1] ?? {};
    await call(403, { ...valid, headers: { origin: 'https://evil.example' } }, 'Origin');
    await call(414, { ...valid, url: `${url}?${'x'.repeat(8_200)}` }, 'long URL');
    await call(415, { ...valid, headers: { 'content-encoding': 'gzip' } }, 'Content-Encoding');
    const manyHeaders = Object.fromEntries(Array.from({ length: 101 }, (_, i) => [`x-${i}`, 'x']));
    await call(431, { ...valid, headers: manyHeaders }, 'many headers');
    if (method === 'GET') await call(400, { ...valid, payload: 'x' }, 'GET with a body');
    if (operation.responses[406]) await call(406, { ...valid, headers: { accept: 'application/json' } }, 'Accept');
    if (!isPublic) {
      await call(401, { ...valid, headers: { authorization: 'Bearer wrong' } }, 'wrong key');
      // Requests that find a stream are not limited; those that guess at one are.
      const guess = { ...valid, url: /(streams|responses)\//.test(url) ? url : (valid.url ?? url), headers: LIMITED };
      await app.inject({ method, ...guess });
      const { headers } = await call(429, guess, 'over the limit');
      t.ok(headers['retry-after'], `${name} has Retry-After`);
    }
    if (isPublic && operation.responses[429]) {
      const remoteAddress = '192.0.2.1';
      for (let i = 0; i < UNAUTHENTICATED; i++) await app.inject({ url: '/nothing', remoteAddress });
      const { headers } = await call(429, { headers: { authorization: 'Bearer wrong' }, remoteAddress }, 'address');
      t.ok(headers['retry-after'], `${name} has Retry-After`);
    }
    const missing = Object.keys(operation.responses).filter(
      (status) => !seen.has(status) && !NOT_PROVOKED.includes(status) && !isUnprovokable(name, status),
    );
    t.same(missing, [], `${name}: every documented status was seen`);
    await checkMethodNotAllowed(name, url);
  }

  async function checkMethodNotAllowed(name: string, url: string): Promise<void> {
    const response = await app.inject({ method: 'PATCH', url, headers: KEY });
    t.equal(response.statusCode, 405, url);
    t.ok(response.headers.allow, 'with Allow');
    const $ref = `#/components/schemas/${url.startsWith('/v1') ? 'OpenAIError' : 'Error'}`;
    t.equal(check({ $ref }, response.json()), undefined, `${name} 405`);
  }
});

/** A stop has neither a body nor parameters that could be wrong. A running conversation has its own test. */
function isUnprovokable(name: string, status: string): boolean {
  return (/stop$|^delete/.test(name) && status === '400') || (name === 'get /ui/chat/{id}/stream' && status === '200');
}

t.test('a running conversation is read as the document says', async (t) => {
  const upstream = await startUpstream(t, ({ response }) => void sse(response).write(text('x')));
  const app = await build(t, { env: bellaAt(upstream.url) });
  const document = await readDocument(app);
  const operation = operationsOf(document).get('get /ui/chat/{id}/stream');
  if (operation === undefined) throw new Error('not documented');
  const messages = [{ role: 'user', parts: [{ type: 'text', text: 'q' }] }];
  const asking = app.inject({ method: 'POST', url: '/ui/chat', payload: { id: 'c', messages } });
  const call = await upstream.call(1);
  const reading = callAndCheck(app, await createChecker(t, document), operation, { url: '/ui/chat/c/stream' });
  await until(() => app.responses.open === 2, 'both responses are open');
  call.response.end(text('y') + STOP + DONE);
  const { status, problem } = await reading;
  t.same([status, problem], [200, undefined]);
  await asking;
});

t.test('unavailable: probes and questions answer as the document says', async (t) => {
  const { app, operations, check } = await serviceWithKeys(t);
  const fails = { method: 'POST', url: '/v1/chat/completions', headers: KEY } as const;
  for (let i = 0; i < 5; i++) {
    await app.inject({ ...fails, payload: { messages: [{ role: 'user', content: 'fail' }] } });
  }
  const expect = async (name: string, status: number, request: InjectOptions) => {
    const operation = operations.get(name);
    if (operation === undefined) throw new Error(`${name} is not documented`);
    const got = await callAndCheck(app, check, operation, { ...request, headers: KEY });
    t.equal(got.status, status, name);
    t.equal(got.problem, undefined, name);
    return got.body;
  };
  t.match(JSON.parse(await expect('get /readyz', 200, { url: '/readyz?verbose' })), {
    targets: [{ provider: 'bella', model: 'gpt-4o', state: 'open' }],
  });
  await app.lifecycle.drain();
  await expect('get /readyz', 503, { url: '/readyz' });
  await expect('post /streams', 503, { method: 'POST', url: '/streams', payload: { question: 'q' } });
  await expect('post /v1/chat/completions', 503, { ...fails, payload: { messages: [{ role: 'user', content: 'q' }] } });
});

t.test('a completion keeps every field', async (t) => {
  const { app } = await serviceWithKeys(t);
  const response = await app.inject({
    method: 'POST',
    url: '/v1/chat/completions',
    headers: KEY,
    payload: { messages: [{ role: 'user', content: 'tools' }] },
  });
  t.match(response.json(), {
    object: 'chat.completion',
    choices: [
      {
        message: {
          content: 'x',
          refusal: null,
          reasoning_content: 'hm',
          tool_calls: [{ id: 'c', type: 'function', function: { name: 'f', arguments: '{}' } }],
        },
      },
    ],
    usage: {
      prompt_tokens: 1,
      completion_tokens: 2,
      total_tokens: 3,
      prompt_tokens_details: { cached_tokens: 1 },
      completion_tokens_details: { reasoning_tokens: 1 },
    },
  });
});

t.test(
  '/docs works over plain HTTP and loads nothing from other sites',
  { skip: noBrowser, timeout: 60_000 },
  async (t) => {
    const { url: loopback } = await serve(t, { env: { CORS_ORIGINS: 'http://sluice.example' } });
    // Browsers treat loopback like HTTPS, so the page is opened by another name.
    const url = loopback.replace('127.0.0.1', 'sluice.example');
    const page = await (await launch(t, ['--host-resolver-rules=MAP sluice.example 127.0.0.1'])).newPage();
    const elsewhere: string[] = [];
    const failed: string[] = [];
    page.on('requestfailed', (request) => void failed.push(request.url()));
    page.on('request', (request) => {
      if (!request.url().startsWith(url) && !request.url().startsWith('data:')) elsewhere.push(request.url());
    });
    await page.goto(`${url}/docs`);
    await page.waitForSelector('.opblock-summary-path');
    t.ok((await page.locator('.opblock').count()) >= 18);
    await page.locator('#operations-Ask-post_ask_stream').click();
    await page.waitForSelector('#operations-Ask-post_ask_stream .responses-table');
    t.equal(await page.locator('.errors-wrapper').count(), 0, 'no reference is broken');
    t.same(elsewhere, []);
    t.same(failed, [], 'everything that the page needs is loaded');
  },
);

t.test('the pages have one strict content security policy', async (t) => {
  const app = await build(t);
  for (const path of ['/', '/docs', '/docs/static/index.html']) {
    const policy = String((await app.inject(path)).headers['content-security-policy']);
    const images = path === '/' ? "'self'" : "'self' data:";
    const expected = `default-src 'none';script-src 'self';style-src 'self';img-src ${images};connect-src 'self';base-uri 'none';form-action 'none';frame-ancestors 'none'`;
    t.equal(policy, expected, path);
  }
});

t.test('PLAYGROUND=false disables the page and the API reference', async (t) => {
  const app = await build(t, { env: { PLAYGROUND: 'false' } });
  for (const path of ['/', '/docs', '/openapi.json', '/main.js'])
    t.equal((await app.inject(path)).statusCode, 404, path);
});

/** Builds a service whose provider answers by the text of the question. */
async function serviceWithKeys(t: Test) {
  const upstream = await startUpstream(t, ({ body, response }) => {
    const { messages } = JSON.parse(body) as { messages: { content: string }[] };
    const question = messages.at(-1)?.content;
    if (question === 'fail') return void response.writeHead(500).end();
    if (question === 'reject') return void response.writeHead(422).end();
    sse(response).write(chunk({ reasoning_content: 'hm' }) + text('x'));
    if (question === 'break') return void response.end(`data: {"error":{"message":"broken"}}\n\n`);
    if (question === 'tools') {
      response.write(chunk({ tool_calls: [{ index: 0, id: 'c', function: { name: 'f', arguments: '{}' } }] }));
    }
    const usage = {
      prompt_tokens: 1,
      completion_tokens: 2,
      prompt_tokens_details: { cached_tokens: 1 },
      completion_tokens_details: { reasoning_tokens: 1 },
    };
    response.end(chunk({}, 'stop', { usage }) + STOP + DONE);
  });
  const sha256 = (key: string) => createHash('sha256').update(key).digest('hex');
  const config = `keys:
  - { name: key, sha256: ${sha256('sk-key')} }
  - { name: limited, sha256: ${sha256('sk-limited')}, requestsPerMinute: 1 }
  - { name: narrow, sha256: ${sha256('sk-narrow')}, models: [other] }
limits: { unauthenticatedPerMinute: ${UNAUTHENTICATED} }
models: [{ name: other, targets: [{ provider: bella, model: other }] }]`;
  const CONFIG_FILE = `${t.testdir({ 'c.yaml': config })}/c.yaml`;
  const app = await build(t, { env: bellaAt(upstream.url, { CONFIG_FILE }) });
  const document = await readDocument(app);
  return { app, operations: operationsOf(document), check: await createChecker(t, document) };
}
