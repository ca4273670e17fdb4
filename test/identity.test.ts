import { SignJWT } from 'jose';
import t, { type Test } from 'tap';
import { systemClock } from '../plugins/clock.ts';
import { MemoryStore } from '../plugins/streams/memory/store.ts';
import type { StreamStore } from '../plugins/streams/types.ts';
import { type BuildOptions, bearer, captureLog, serve, sha256, until, writeConfig } from './helper.ts';
import { manualDate } from './manual-date.ts';
import { metricValue } from './metric-value.ts';
import { postJson } from './post-json.ts';
import { open, readAll } from './sse-client.ts';
import { completeAnswer, DONE, type Script, STOP, sse, startUpstream, text, unfinishedAnswer } from './upstream.ts';

/** Authentication by key, token and ticket, owners of streams, and limits. */

const A = 'sk-sluice-key-of-a';
const B = 'sk-sluice-key-of-b';
const KEYS = `keys:
  - { name: a, sha256: ${sha256(A)} }
  - { name: b, sha256: ${sha256(B)}, models: [small] }
  - { name: old, sha256: ${sha256('old')}, expiresAt: 2020-01-01T00:00:00Z }`;

/** Returns a store that adds the name of each called method to `calls`. */
function recordedStore(calls: string[]): StreamStore {
  const options = { clock: systemClock, highWaterMark: 16_384, flushMs: 10, ttlMs: 300_000, maxTotalBytes: 1e8 };
  const store = new MemoryStore({ ...options, onEvicted() {} });
  return new Proxy(store, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name);
      if (typeof value !== 'function') return value;
      return (...args: unknown[]) => {
        calls.push(String(name));
        return value.apply(target, args);
      };
    },
  });
}

/** Starts a service with the models `big` and `small`, and the keys or JWT settings of `authentication`. */
async function serveWithKeys(
  t: Test,
  script: Script = completeAnswer('x'),
  authentication = KEYS,
  overrides: BuildOptions = {},
) {
  const upstream = await startUpstream(t, script);
  const yaml = `${authentication}
providers: { it: { type: openai-compatible, baseUrl: "${upstream.url}/v1", apiKeys: [k] } }
models:
  - { name: big, targets: [{ provider: it, model: m }] }
  - { name: small, targets: [{ provider: it, model: s }] }`;
  const env = { CONFIG_FILE: writeConfig(t, yaml), DEFAULT_MODEL: 'big', ...overrides.env };
  const { app, url } = await serve(t, { ...overrides, env });
  const get = (path: string, headers: Record<string, string> = {}, method = 'GET') =>
    fetch(`${url}${path}`, { method, headers });
  const post = (path: string, body: unknown, headers: Record<string, string> = {}) =>
    postJson(`${url}${path}`, body, headers);
  const ticket = async (key: string, body: object = {}) => {
    const response = await post('/tickets', body, bearer(key));
    return ((await response.json()) as { ticket: string }).ticket;
  };
  return { upstream, app, url, get, post, ticket };
}

t.test('every route of the API needs a valid key; probes and metrics need none', async (t) => {
  const { upstream, get, post } = await serveWithKeys(t);
  const body = { question: 'q' };
  const routes: [method: string, path: string, body?: object][] = [
    ['GET', '/ask/stream?question=q'],
    ['POST', '/ask/stream', body],
    ['POST', '/streams', body],
    ['GET', '/streams/AAAAAAAAAAAAAAAAAAAAAA'],
    ['DELETE', '/streams/AAAAAAAAAAAAAAAAAAAAAA'],
    ['POST', '/streams/AAAAAAAAAAAAAAAAAAAAAA/stop'],
    ['POST', '/v1/chat/completions', { messages: [{ role: 'user', content: 'q' }] }],
    ['GET', '/v1/models'],
    ['POST', '/ui/chat', { messages: [{ role: 'user', parts: [] }] }],
    ['GET', '/ui/chat/c/stream'],
    ['POST', '/agui', { threadId: 't', runId: 'r', messages: [{ role: 'user', content: 'q' }] }],
    ['GET', '/agui?runId=r&offset=-1'],
    ['GET', '/agui/capabilities'],
    ['POST', '/tickets', {}],
  ];
  const invalid: Record<string, Record<string, string>> = {
    'no key': {},
    'an unknown key': bearer('wrong'),
    'an expired key': bearer('old'),
    'a key without Bearer': { authorization: A },
    'Basic authentication': { authorization: 'Basic eDp5' },
  };
  for (const [method, path, routeBody] of routes) {
    for (const [name, headers] of Object.entries(invalid)) {
      const response = await (routeBody ? post(path, routeBody, headers) : get(path, headers, method));
      t.equal(response.status, 401, `${method} ${path} with ${name}: status`);
      t.equal(response.headers.get('www-authenticate'), 'Bearer', `${method} ${path} with ${name}: www-authenticate`);
      t.match(await response.json(), { error: { message: /Authorization: Bearer/ } }, 'the error names the header');
    }
  }
  t.equal((await get('/ask/stream?question=q&ticket=x.y')).status, 401, 'an invalid ticket');
  for (const path of ['/livez', '/readyz', '/metrics']) t.equal((await get(path)).status, 200, path);
  t.equal(upstream.calls.length, 0, 'the upstream is not called');
  t.equal((await post('/ask/stream', body, bearer(A))).status, 200, 'a valid key');
});

t.test('a key with a list of models may use only these', async (t) => {
  const { upstream, get, post } = await serveWithKeys(t);
  const ask = (key: string, model: string) => get(`/ask/stream?question=q&model=${model}`, bearer(key));
  t.equal((await ask(B, 'big')).status, 403, 'a model that is not in the list');
  t.equal((await ask(B, 'small')).status, 200, 'a model of the list');
  t.equal((await ask(A, 'big')).status, 200, 'a key without a list');
  const listed = (await (await get('/v1/models', bearer(B))).json()) as { data: { id: string }[] };
  t.same(
    listed.data.map(({ id }) => id),
    ['small'],
    'the key sees only its models',
  );
  t.equal((await post('/tickets', { model: 'big' }, bearer(B))).status, 403, 'a ticket for a model out of the list');
  t.equal(upstream.calls.length, 2, 'refused questions do not call the upstream');
});

t.test('the stream of another key gets the same responses as an unknown stream', async (t) => {
  const lookups: string[] = [];
  const store = recordedStore(lookups);
  const { upstream, url, get, post } = await serveWithKeys(t, unfinishedAnswer('secret of a'), KEYS, { store });
  const question = { question: 'q', model: 'small' };
  const created = await post('/streams', question, { ...bearer(A), 'idempotency-key': 'k' });
  const { id } = (await created.json()) as { id: string };
  const unknown = 'B'.repeat(22);
  /** Returns what B can see of a response, and the calls of the store, on which its time depends. */
  const responseTo = async (path: string, method = 'GET') => {
    lookups.length = 0;
    const response = await get(path, bearer(B), method);
    const headers: string[] = [];
    response.headers.forEach((value, name) => {
      if (name !== 'date' && name !== 'x-request-id') headers.push(`${name}: ${value}`);
    });
    return [response.status, headers, (await response.text()).replace(/"requestId":"[^"]*"/, ''), [...lookups]];
  };
  t.same((await responseTo(`/streams/${id}`)).at(-1), ['open'], 'a read looks the stream up once');
  t.same(await responseTo(`/streams/${id}`), await responseTo(`/streams/${unknown}`), 'a read');
  t.same(
    await responseTo(`/streams/${id}`, 'DELETE'),
    await responseTo(`/streams/${unknown}`, 'DELETE'),
    'a stop by DELETE',
  );
  t.same(
    await responseTo(`/streams/${id}/stop`, 'POST'),
    await responseTo(`/streams/${unknown}/stop`, 'POST'),
    'a stop by POST',
  );
  const resume = await readAll(`${url}/streams/${id}`, { headers: { ...bearer(B), 'last-event-id': `${id}.0` } });
  t.match(
    resume.events.map(({ json }) => json),
    [{ type: 'error', code: 'stream_unknown' }],
    'a resume',
  );

  const other = await post('/streams', question, { ...bearer(B), 'idempotency-key': 'k' });
  t.equal(other.status, 201, 'the same question with the same idempotency key of another key is accepted');
  t.not(((await other.json()) as { id: string }).id, id, 'and starts another stream');
  t.equal(upstream.calls[0]?.closedAt, undefined, 'the stream of the first key is still running');
});

t.test('a ticket starts one generation, for its question and its key only', async (t) => {
  const { upstream, url, post, ticket } = await serveWithKeys(t, unfinishedAnswer('one '));
  const validTicket = await ticket(A);
  const ask = (text: string, question = 'q') =>
    `${url}/ask/stream?question=${question}&ticket=${encodeURIComponent(text)}`;
  const [first, second] = await Promise.all([open(ask(validTicket)), open(ask(validTicket))]);
  const ids = await Promise.all([first.until('start'), second.until('start')]);
  t.equal(ids[0]?.json.stream, ids[1]?.json.stream, '78: concurrent uses read the same stream');
  await first.until('delta');
  t.equal(upstream.calls.length, 1, '78: concurrent uses start one generation');
  t.equal((await fetch(ask(validTicket, 'other'))).status, 401, '77: another question');
  const flipped = `${validTicket.slice(0, -1)}${validTicket.endsWith('A') ? 'B' : 'A'}`;
  t.equal((await fetch(ask(flipped))).status, 401, '79: a changed signature');
  const [body = '', signature = ''] = validTicket.split('.');
  const forged = Buffer.from(
    JSON.stringify({ ...JSON.parse(Buffer.from(body, 'base64url').toString()), expires: 9e15 }),
  );
  t.equal(
    (await fetch(ask(`${forged.toString('base64url')}.${signature}`))).status,
    401,
    'a later expiry with the old signature',
  );
  t.equal((await fetch(ask(await ticket(B, {}), 'q&model=big'))).status, 403, 'a model that the key may not use');

  const read = new URL(first.events[0]?.json.url, url);
  t.match(
    (await (await open(read.href)).until('delta')).json,
    { content: 'one ' },
    'the url of the `start` event reads the stream',
  );
  const stream = first.events[0]?.json.stream as string;
  const otherStream = new URL(read);
  otherStream.pathname = `/streams/${'C'.repeat(22)}`;
  t.equal((await fetch(otherStream)).status, 401, '80: the ticket of that url does not read another stream');
  t.equal(
    (await fetch(`${url}/streams/${stream}?ticket=${validTicket}`)).status,
    401,
    'the ticket of a question does not read a stream by its id',
  );
  t.equal(
    (await fetch(`${url}/ask/stream?question=q${read.search.replace('?', '&')}`)).status,
    401,
    'the ticket of a stream does not start a question',
  );
  t.equal((await post('/tickets', {})).status, 401, 'creating a ticket needs a key');
  t.equal((await fetch(read, { method: 'DELETE' })).status, 204, 'the url of the `start` event stops the stream');
  await until(() => upstream.calls[0]?.closedAt !== undefined, 'the upstream call is aborted');
});

t.test('an unknown model is answered with the models of this key alone', async (t) => {
  const { get, post } = await serveWithKeys(t);
  const calls: Record<string, (key: string) => Promise<Response>> = {
    'GET /ask/stream': (key) => get('/ask/stream?question=q&model=none', bearer(key)),
    'POST /ask/stream': (key) => post('/ask/stream', { question: 'q', model: 'none' }, bearer(key)),
    'POST /streams': (key) => post('/streams', { question: 'q', model: 'none' }, bearer(key)),
    'POST /tickets': (key) => post('/tickets', { model: 'none' }, bearer(key)),
    'POST /v1/chat/completions': (key) =>
      post('/v1/chat/completions', { model: 'none', messages: [{ role: 'user', content: 'q' }] }, bearer(key)),
    'GET /v1/models/none': (key) => get('/v1/models/none', bearer(key)),
  };
  for (const [name, call] of Object.entries(calls)) {
    const response = await call(B);
    t.equal(response.status, 404, name);
    const text = await response.text();
    t.match(text, 'Available models: small.', `${name}: its own model`);
    t.match(await (await call(A)).text(), 'Available models: big, small.', `${name}: a key without a list`);
  }
});

t.test('the body of POST /tickets may be left out', async (t) => {
  const { url, get } = await serveWithKeys(t);
  const create = (init: RequestInit) => fetch(`${url}/tickets`, { method: 'POST', ...init });
  for (const [name, init] of Object.entries<RequestInit>({
    'no body': { headers: bearer(A) },
    'no body, with a content type': { headers: { ...bearer(A), 'content-type': 'application/json' } },
    'an empty object': { headers: { ...bearer(A), 'content-type': 'application/json' }, body: '{}' },
  })) {
    const response = await create(init);
    t.equal(response.status, 201, name);
    const { ticket } = (await response.json()) as { ticket: string };
    const answer = await get(`/ask/stream?question=q&ticket=${ticket}`);
    t.equal(answer.status, 200, `${name}: the ticket asks a question`);
    await answer.body?.cancel();
  }
  const invalid = await create({ headers: { ...bearer(A), 'content-type': 'text/plain' }, body: 'x' });
  t.equal(invalid.status, 415, 'a body that is no JSON');
  const question = await fetch(`${url}/streams`, {
    method: 'POST',
    headers: { ...bearer(A), 'content-type': 'application/json' },
  });
  t.equal(question.status, 400, 'other routes need their body');
});

t.test('an expired ticket resumes the stream that it started, and nothing else', async (t) => {
  const { upstream, url, ticket } = await serveWithKeys(t, unfinishedAnswer('one '));
  const date = manualDate(t);
  const shortTicket = await ticket(A, { seconds: 3 });
  const ask = `${url}/ask/stream?question=q&ticket=${shortTicket}`;
  const reading = await open(ask);
  const { id } = await reading.until('delta');
  reading.cut();
  const other = await open(`${url}/ask/stream?question=other`, { headers: bearer(A) });
  const foreign = await other.until('delta');
  date.advance(3_000);
  t.equal((await fetch(ask)).status, 401, '76: an expired ticket starts no question');
  for (const lastEventId of ['', ' ']) {
    const response = await fetch(ask, { headers: { 'last-event-id': lastEventId } });
    t.equal(response.status, 401, `an expired ticket with Last-Event-ID "${lastEventId}"`);
  }
  t.equal((await fetch(`${ask}&lastEventId=`)).status, 401, 'an expired ticket with an empty lastEventId');
  const resumed = await open(ask, { headers: { 'last-event-id': id } });
  t.equal(resumed.response.statusCode, 200, 'an expired ticket resumes its stream');
  await until(() => resumed.retry !== undefined, 'the resumed reader gets bytes');
  const refused = await readAll(ask, { headers: { 'last-event-id': foreign.id } });
  t.match(
    refused.events.map(({ json }) => json),
    [{ code: 'stream_unknown' }],
    'an expired ticket does not resume another stream of its key',
  );
  t.equal(upstream.calls.length, 2, 'the upstream is called once for each stream');
});

t.test('a JSON web token has the models of its claim, and the streams of its subject', async (t) => {
  const secret = 'a shared secret of more than thirty-two characters';
  const jwt = `jwt: { secret: "${secret}", issuer: "https://issuer.example", audience: sluice, algorithms: [HS256] }`;
  const { get, post } = await serveWithKeys(t, completeAnswer('x'), jwt);
  const token = (claims: Record<string, unknown>) =>
    new SignJWT({ iss: 'https://issuer.example', aud: 'sluice', sub: 'user-1', ...claims })
      .setProtectedHeader({ alg: 'HS256' })
      .setExpirationTime('1 minute')
      .sign(new TextEncoder().encode(secret));
  const models = await get('/v1/models', bearer(await token({ models: ['small'] })));
  t.same(
    ((await models.json()) as { data: { id: string }[] }).data.map(({ id }) => id),
    ['small'],
    'the claim `models` restricts the models',
  );
  const big = await post('/streams', { question: 'q' }, bearer(await token({ models: ['small'] })));
  t.equal(big.status, 403, 'a model that the claim does not name');
  const started = await post('/streams', { question: 'q' }, bearer(await token({})));
  t.equal(started.status, 201, 'a token without the claim');
  const { id } = (await started.json()) as { id: string };
  const readAs = async (claims: Record<string, unknown>) =>
    (await get(`/streams/${id}`, bearer(await token(claims)))).status;
  t.equal(await readAs({ extra: 1 }), 200, 'another token of the same subject reads the stream');
  t.equal(await readAs({ sub: 'user-10' }), 404, '87: a subject with the same prefix does not read the stream');
  const ticket = await post('/tickets', {}, bearer(await token({ models: ['small'] })));
  const query = `question=q&ticket=${((await ticket.json()) as { ticket: string }).ticket}`;
  t.equal((await get(`/ask/stream?${query}`)).status, 403, 'its ticket asks no other model');
  t.equal((await get(`/ask/stream?${query}&model=small`)).status, 200, 'its ticket asks its model');
});

t.test('a request with a wrong body counts against the limit of its key', async (t) => {
  const wrong: Record<string, RequestInit> = {
    'no JSON': { body: '{' },
    'a wrong field': { body: '{"question":1}' },
    'a duplicate field': { body: '{"question":"a","question":"b"}' },
    'another media type': { body: 'x', headers: { 'content-type': 'text/plain' } },
    'a body that is too long': { body: `{"question":"${'x'.repeat(20_000_000)}"}` },
    'a model that does not exist': { body: '{"question":"q","model":"none"}' },
  };
  const names = Object.keys(wrong).map((_, i) => `key${i}`);
  const keys = names.map((name) => `  - { name: ${name}, sha256: ${sha256(name)}, requestsPerMinute: 1 }`).join('\n');
  const { url, upstream } = await serveWithKeys(t, completeAnswer('x'), `keys:\n${keys}`);
  for (const [i, [name, { body, headers }]] of Object.entries(wrong).entries()) {
    const ask = (init: RequestInit) =>
      fetch(`${url}/streams`, {
        method: 'POST',
        ...init,
        headers: { 'content-type': 'application/json', ...bearer(`key${i}`), ...init.headers },
      });
    const { status } = await ask({ ...(body && { body }), ...(headers && { headers }) });
    t.ok([400, 404, 413, 415].includes(status), `${name}: ${status}`);
    t.equal((await ask({ body: '{"question":"q"}' })).status, 429, `${name}: it has used the limit`);
  }
  t.equal(upstream.calls.length, 0);
});

t.test('limits of a key: requests per minute, concurrent generations, tokens per minute', async (t) => {
  const key = (name: string, limits: string) => `  - { name: ${name}, sha256: ${sha256(name)}, ${limits} }`;
  const keys = [
    'keys:',
    key('requests', 'requestsPerMinute: 3'),
    key('streams', 'maxConcurrent: 1'),
    key('tokens', 'tokensPerMinute: 3000'),
    key('guesses', 'requestsPerMinute: 3'),
    key('guesses2', 'requestsPerMinute: 2'),
  ].join('\n');
  const usage = 'data: {"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":2890,"total_tokens":2900}}\n\n';
  const { url, get, post, app } = await serveWithKeys(
    t,
    ({ body, response }) => {
      if (body.includes('stay')) return void sse(response).write(text('one '));
      sse(response).end(text('x') + STOP + (body.includes('much') ? usage : usage.replace('2900', '20')) + DONE);
    },
    keys,
  );
  const ask = (name: string, question: string) => post('/ask/stream', { question }, bearer(name));

  for (let left = 2; left >= 0; left--) {
    const response = await ask('requests', 'q');
    t.equal(response.status, 200, 'a request within the limit');
    t.match(
      ['limit', 'remaining', 'reset'].map((field) => response.headers.get(`ratelimit-${field}`)),
      ['3', String(left), /^\d+$/],
      'the ratelimit headers',
    );
    await response.text();
  }
  const withEventId = { ...bearer('requests'), 'last-event-id': 'A'.repeat(22) };
  const resume = await post('/streams', { question: 'q' }, withEventId);
  t.equal(resume.status, 429, 'a Last-Event-ID does not bypass the limit');
  const limited = await ask('requests', 'q');
  t.equal(limited.status, 429, 'a request above the limit');
  t.ok(Number(limited.headers.get('retry-after')) > 0, 'retry-after of the refusal');
  t.match(await limited.json(), { error: { code: 'rate_limited' } }, 'error code of the refusal');
  const source = await readAll(`${url}/ask/stream?question=q`, { headers: bearer('requests') });
  t.match(
    source.events.map(({ json }) => json),
    [{ type: 'error', code: 'rate_limited', retryable: true, retryAfter: Number }],
    'an EventSource gets the refusal as an event',
  );
  const reconnect = await fetch(`${url}/ask/stream?question=q`, {
    headers: { ...bearer('requests'), accept: 'text/event-stream', 'last-event-id': source.events[0]?.id ?? '' },
  });
  t.equal(reconnect.status, 204, 'the reconnect of the EventSource gets 204');

  const guesses = [];
  for (let i = 0; i < 5; i++) {
    const id = 'G'.repeat(21) + i;
    const headers = i % 2 ? { ...bearer('guesses'), 'last-event-id': `${id}.1` } : bearer('guesses');
    const response = await get(`/streams/${id}`, headers);
    guesses.push(response.status);
    await response.text();
  }
  t.same(guesses, [404, 200, 404, 429, 429], '91: reads and resumes of unknown streams count as requests');

  const { ticket } = (await (await post('/tickets', {}, bearer('guesses2'))).json()) as { ticket: string };
  const resumes = [];
  for (let i = 0; i < 11; i++) {
    const response = await get(`/ask/stream?question=q&ticket=${ticket}&lastEventId=${'G'.repeat(22)}.${i}`);
    resumes.push(response.status);
    await response.text();
  }
  t.same(resumes, [...Array(10).fill(200), 429], '91: the guesses of a ticket have a limit of their own');
  t.equal((await ask('guesses2', 'q')).status, 200, 'and leave that of its key alone');

  const running = await open(`${url}/ask/stream`, { body: { question: 'stay' }, headers: bearer('streams') });
  await running.until('delta');
  t.equal((await ask('streams', 'q')).status, 429, 'a second concurrent generation');
  running.cut();
  await until(() => app.streams.active === 0, 'the generation has ended');
  for (const name of ['the next generation', 'the generation after that']) {
    const response = await ask('streams', 'q');
    t.equal(response.status, 200, name);
    await response.text();
    await until(() => app.streams.active === 0, 'the generation has ended');
  }

  for (const question of ['little', 'little', 'little', 'much']) {
    const response = await ask('tokens', question);
    t.equal(response.status, 200, `${question}: the estimates of earlier answers are corrected`);
    await response.text();
    await until(() => app.streams.active === 0, 'the generation has ended');
  }
  t.equal((await ask('tokens', 'little')).status, 429, 'the used tokens are charged');
  t.equal(await metricValue(app, 'sluice_refusals_total', { reason: 'limit_tokens' }), 1, 'sluice_refusals_total');
});

t.test('a ticket is checked against the current configuration of its key', async (t) => {
  const names = Array.from({ length: 900 }, () => 'small');
  const keyWithManyModels = `keys:\n  - { name: a, sha256: ${sha256(A)}, models: [small, ${names.join(', ')}] }`;
  const { app, url, ticket } = await serveWithKeys(t, completeAnswer('x'), keyWithManyModels);
  const askWith = (ticket: string) => fetch(`${url}/ask/stream?question=q&model=small&ticket=${ticket}`);
  t.equal((await askWith(await ticket(A))).status, 200, 'a ticket of a key with 900 models');
  const oldTicket = await ticket(A);
  app.reloadConfig({ ...app.config, keys: [{ name: 'b', sha256: sha256(B) }] });
  t.equal((await askWith(oldTicket)).status, 401, 'a ticket of a removed key');
  t.throws(
    () => app.reloadConfig({ ...app.config, keys: [] }),
    /needs a restart/,
    'a reload cannot remove the last key',
  );
  t.equal((await fetch(`${url}/v1/models`)).status, 401, 'authentication is still required');
});

t.test('the log says who asked: the name of the key, and the address behind the gateway', async (t) => {
  const { logTo, log } = captureLog();
  const { get, post } = await serveWithKeys(t, completeAnswer('x'), KEYS, { logTo, env: { TRUST_PROXY: '1' } });
  const forwarded = (address: string) => ({ 'x-forwarded-for': address });
  await (await post('/ask/stream', { question: 'q' }, { ...bearer(A), ...forwarded('203.0.113.7') })).text();
  await (await post('/streams', { question: 1 }, { ...bearer(B), ...forwarded('2001:db8::1') })).text();
  await (await post('/streams', { question: 'q' }, { ...bearer('wrong'), ...forwarded('CANARY') })).text();
  await (await get('/livez', forwarded('203.0.113.8'))).text();
  const lines = () =>
    log()
      .split('\n')
      .filter((line) => /"(request|stream ended)"/.test(line))
      .map((line) => JSON.parse(line));
  await until(() => lines().length >= 3, 'the lines are logged');
  const found = lines().map(({ msg, status, owner, clientAddress }) => [msg, status, owner, clientAddress]);
  t.has(
    found.find(([msg]) => msg === 'stream ended'),
    ['stream ended', undefined, 'key:a', '203.0.113.7'],
  );
  t.same(
    found.find(([, status]) => status === 400),
    ['request', 400, 'key:b', '2001:db8::1'],
  );
  t.same(
    found.find(([, status]) => status === 401),
    ['request', 401, undefined, undefined],
    'nobody is known',
  );
  t.notMatch(log(), /CANARY|sk-sluice/, 'neither an invented address nor a key');
});
