import { createHash, generateKeyPairSync, type KeyObject } from 'node:crypto';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { exportJWK, SignJWT } from 'jose';
import t, { type Test } from 'tap';
import { serve, until } from './helper.ts';
import { open, readAll } from './sse-client.ts';
import { completeAnswer, DONE, type Script, STOP, sse, startUpstream, text, unfinishedAnswer } from './upstream.ts';

/** Only those who may: keys, tokens, tickets, and streams that belong to somebody. */

const A = 'sk-sluice-key-of-a';
const B = 'sk-sluice-key-of-b';
const sha256 = (text: string) => createHash('sha256').update(text).digest('hex');
const bearer = (token: string) => ({ authorization: `Bearer ${token}` });
const KEYS = `keys:
  - { name: a, sha256: ${sha256(A)} }
  - { name: b, sha256: ${sha256(B)}, models: [small] }
  - { name: old, sha256: ${sha256('old')}, expiresAt: 2020-01-01T00:00:00Z }`;

async function service(t: Test, script: Script = completeAnswer('x'), more = KEYS) {
  const upstream = await startUpstream(t, script);
  const yaml = `${more}
providers: { it: { type: openai, baseUrl: "${upstream.url}/v1", apiKeys: [k] } }
models:
  - { name: big, targets: [{ provider: it, model: m }] }
  - { name: small, targets: [{ provider: it, model: s }] }`;
  const { app, url } = await serve(t, {
    env: { CONFIG_FILE: `${t.testdir({ 'c.yaml': yaml })}/c.yaml`, DEFAULT_MODEL: 'big' },
  });
  const call = (
    path: string,
    { method = 'GET', headers = {}, body }: { method?: string; headers?: object; body?: unknown } = {},
  ) =>
    fetch(`${url}${path}`, {
      method,
      headers: { ...headers, ...(body !== undefined && { 'content-type': 'application/json' }) },
      ...(body !== undefined && { body: JSON.stringify(body) }),
    });
  const ticket = async (key: string, body: object = {}) => {
    const response = await call('/tickets', { method: 'POST', headers: bearer(key), body });
    return ((await response.json()) as { ticket: string }).ticket;
  };
  return { upstream, app, url, call, ticket };
}

t.test('nobody asks without a key, and the probes need none', async (t) => {
  const { upstream, call } = await service(t);
  const body = { question: 'q' };
  const closed: [string, object][] = [
    ['/ask/stream?question=q', {}],
    ['/ask/stream', { method: 'POST', body }],
    ['/streams', { method: 'POST', body }],
    ['/streams/AAAAAAAAAAAAAAAAAAAAAA', {}],
    ['/streams/AAAAAAAAAAAAAAAAAAAAAA', { method: 'DELETE' }],
    ['/streams/AAAAAAAAAAAAAAAAAAAAAA/stop', { method: 'POST' }],
    ['/v1/chat/completions', { method: 'POST', body: { messages: [{ role: 'user', content: 'q' }] } }],
    ['/v1/models', {}],
    ['/ui/chat', { method: 'POST', body: { messages: [{ role: 'user', parts: [] }] } }],
    ['/ui/chat/c/stream', {}],
    ['/tickets', { method: 'POST', body: {} }],
  ];
  for (const [path, options] of closed) {
    for (const headers of [{}, bearer('wrong'), bearer('old'), { authorization: A }, { authorization: 'Basic eDp5' }]) {
      const response = await call(path, { ...options, headers });
      t.equal(response.status, 401, path);
      t.equal(response.headers.get('www-authenticate'), 'Bearer');
      t.match(await response.json(), { error: { message: /Authorization: Bearer/ } });
    }
  }
  t.equal((await call('/ask/stream?question=q&ticket=x.y')).status, 401);
  for (const path of ['/livez', '/readyz', '/metrics']) t.equal((await call(path)).status, 200, path);
  t.equal(upstream.calls.length, 0);
  t.equal((await call('/ask/stream', { method: 'POST', headers: bearer(A), body })).status, 200, 'and with one');
});

t.test('a key may be for some models only', async (t) => {
  const { upstream, call } = await service(t);
  const ask = (key: string, model: string) => call(`/ask/stream?question=q&model=${model}`, { headers: bearer(key) });
  t.equal((await ask(B, 'big')).status, 403);
  t.equal((await ask(B, 'small')).status, 200);
  t.equal((await ask(A, 'big')).status, 200);
  const listed = (await (await call('/v1/models', { headers: bearer(B) })).json()) as { data: { id: string }[] };
  t.same(
    listed.data.map(({ id }) => id),
    ['small'],
  );
  t.equal((await call('/tickets', { method: 'POST', headers: bearer(B), body: { model: 'big' } })).status, 403);
  t.equal(upstream.calls.length, 2);
});

t.test('another’s stream is as unknown as one that never was', async (t) => {
  const { upstream, url, call } = await service(t, unfinishedAnswer('secret of a'));
  const made = await call('/streams', {
    method: 'POST',
    headers: { ...bearer(A), 'idempotency-key': 'k' },
    body: { question: 'q' },
  });
  const { id } = (await made.json()) as { id: string };
  const unknown = 'B'.repeat(22);
  const told = async (path: string, method = 'GET') => {
    const response = await call(path, { method, headers: bearer(B) });
    return [response.status, (await response.text()).replace(/"requestId":"[^"]*"/, '')];
  };
  t.same(await told(`/streams/${id}`), await told(`/streams/${unknown}`), 'to read');
  t.same(await told(`/streams/${id}`, 'DELETE'), await told(`/streams/${unknown}`, 'DELETE'), 'to stop');
  t.same(await told(`/streams/${id}/stop`, 'POST'), await told(`/streams/${unknown}/stop`, 'POST'));
  const resume = await readAll(`${url}/streams/${id}`, { headers: { ...bearer(B), 'last-event-id': `${id}.0` } });
  t.match(
    resume.events.map(({ json }) => json),
    [{ type: 'error', code: 'stream_unknown' }],
    'to resume',
  );

  const again = await call('/streams', {
    method: 'POST',
    headers: { ...bearer(B), 'idempotency-key': 'k' },
    body: { question: 'q', model: 'small' },
  });
  t.not(((await again.json()) as { id: string }).id, id, 'the same key of another is another stream');
  t.equal(upstream.calls[0]?.closedAt, undefined, 'and nobody stopped it');

  const time = async (target: string) => {
    const started = performance.now();
    await call(`/streams/${target}`, { headers: bearer(B) });
    return performance.now() - started;
  };
  const times: Record<'foreign' | 'unknown', number[]> = { foreign: [], unknown: [] };
  for (let i = 0; i < 1_000; i++) {
    times.foreign.push(await time(id));
    times.unknown.push(await time(unknown));
  }
  const median = (list: number[]) => [...list].sort((a, b) => a - b)[list.length >> 1] as number;
  const ratio = median(times.foreign) / median(times.unknown);
  t.ok(ratio > 0.5 && ratio < 2, `the time of 2,000 requests tells nothing (${ratio.toFixed(3)})`);
});

t.test('tickets', async (t) => {
  const { upstream, url, call, ticket } = await service(t, unfinishedAnswer('one '));
  const good = await ticket(A);
  const ask = (text: string, question = 'q') =>
    `${url}/ask/stream?question=${question}&ticket=${encodeURIComponent(text)}`;
  const [first, second] = await Promise.all([open(ask(good)), open(ask(good))]);
  const ids = await Promise.all([first.until('start'), second.until('start')]);
  t.equal(ids[0]?.json.stream, ids[1]?.json.stream, '78: two that race start one generation');
  await first.until('delta');
  t.equal(upstream.calls.length, 1);
  t.equal((await fetch(ask(good, 'other'))).status, 401, '77: another question');
  const flipped = `${good.slice(0, -1)}${good.endsWith('A') ? 'B' : 'A'}`;
  t.equal((await fetch(ask(flipped))).status, 401, '79: a bit flipped');
  const [body = '', signature = ''] = good.split('.');
  const forged = Buffer.from(
    JSON.stringify({ ...JSON.parse(Buffer.from(body, 'base64url').toString()), expires: 9e15 }),
  );
  t.equal((await fetch(ask(`${forged.toString('base64url')}.${signature}`))).status, 401, 'its time made longer');
  t.equal((await fetch(ask(await ticket(B, {}), 'q&model=big'))).status, 403, 'a ticket may do no more than its key');

  const read = new URL(first.events[0]?.json.url, url);
  t.match((await (await open(read.href)).until('delta')).json, { content: 'one ' }, 'the url of start reads');
  const stream = first.events[0]?.json.stream as string;
  const elsewhere = new URL(read);
  elsewhere.pathname = `/streams/${'C'.repeat(22)}`;
  t.equal((await fetch(elsewhere)).status, 401, '80: not another stream');
  t.equal((await fetch(`${url}/streams/${stream}?ticket=${good}`)).status, 401, 'nor with the ticket of a question');
  t.equal((await fetch(`${url}/ask/stream?question=q${read.search.replace('?', '&')}`)).status, 401, 'nor to ask');
  t.equal((await call('/tickets', { method: 'POST', body: {} })).status, 401, 'only a key gets tickets');
  t.equal((await fetch(read, { method: 'DELETE' })).status, 204, 'and stops');
  await until(() => upstream.calls[0]?.closedAt !== undefined, 'the call has ended');
});

t.test('a ticket whose time is over resumes what it started, and nothing else', async (t) => {
  const { upstream, url, ticket } = await service(t, unfinishedAnswer('one '));
  const brief = await ticket(A, { seconds: 3 });
  const expiry = Date.now() + 3_000;
  const ask = `${url}/ask/stream?question=q&ticket=${brief}`;
  const reading = await open(ask);
  const { id } = await reading.until('delta');
  reading.cut();
  const other = await open(`${url}/ask/stream?question=other`, { headers: bearer(A) });
  const foreign = await other.until('delta');
  await until(() => Date.now() > expiry, 'the ticket has expired');
  t.equal((await fetch(ask)).status, 401, '76: it starts nothing');
  for (const nothing of ['', ' ']) {
    const empty = await fetch(ask, { headers: { 'last-event-id': nothing } });
    t.equal(empty.status, 401, 'nor does an empty Last-Event-ID help');
  }
  t.equal((await fetch(`${ask}&lastEventId=`)).status, 401);
  const resumed = await open(ask, { headers: { 'last-event-id': id } });
  t.equal(resumed.response.statusCode, 200);
  await until(() => resumed.retry !== undefined, 'it reads on');
  const refused = await readAll(ask, { headers: { 'last-event-id': foreign.id } });
  t.match(
    refused.events.map(({ json }) => json),
    [{ code: 'stream_unknown' }],
    'another stream of the same owner is not its own',
  );
  t.equal(upstream.calls.length, 2);
});

t.test('tokens: good ones, and every trick', async (t) => {
  const secret = 'a shared secret of more than thirty-two characters';
  const { privateKey, publicKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  let fetched = 0;
  const jwk = { ...(await exportJWK(publicKey)), kid: 'k1', alg: 'RS256', use: 'sig' };
  const issuer = createServer((_, response) => {
    fetched += 1;
    response.setHeader('content-type', 'application/json').end(JSON.stringify({ keys: [jwk] }));
  }).listen(0, '127.0.0.1');
  t.teardown(() => issuer.close());
  await until(() => issuer.listening, 'the issuer listens');
  const jwks = `http://127.0.0.1:${(issuer.address() as AddressInfo).port}/keys`;

  const settings = (key: string, algorithms: string) =>
    `jwt: { ${key}, issuer: "https://issuer.example", audience: sluice, algorithms: [${algorithms}] }`;
  const shared = await service(t, completeAnswer('x'), settings(`secret: "${secret}"`, 'HS256'));
  const asymmetric = await service(t, completeAnswer('x'), settings(`jwksUrl: "${jwks}"`, 'RS256'));

  type Claims = Record<string, unknown>;
  const CLAIMS = {
    iss: 'https://issuer.example',
    aud: 'sluice',
    sub: 'user@example.com',
    exp: Math.floor(Date.now() / 1000) + 60,
  };
  const sign = (claims: Claims, header: Record<string, unknown>, key: Uint8Array | KeyObject) =>
    new SignJWT(claims).setProtectedHeader({ alg: 'HS256', ...header }).sign(key as never);
  const hs = (claims: Claims = {}, header = {}) =>
    sign({ ...CLAIMS, ...claims }, header, new TextEncoder().encode(secret));
  const rs = (claims: Claims = {}, header = {}) =>
    sign({ ...CLAIMS, ...claims }, { alg: 'RS256', kid: 'k1', ...header }, privateKey);
  const b64 = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const status = async ({ call }: typeof shared, token: string) => {
    const response = await call('/v1/models', { headers: bearer(token) });
    await response.text();
    return response.status;
  };

  t.equal(await status(shared, await hs()), 200, 'a shared secret');
  t.equal(await status(asymmetric, await rs()), 200, 'a key set');
  t.equal(await status(asymmetric, await rs({}, { typ: 'at+jwt' })), 200);
  const pem = publicKey.export({ type: 'spki', format: 'pem' }) as string;
  const past = Math.floor(Date.now() / 1000) - 120;
  const bad: [string, typeof shared, string][] = [
    ['81: alg none', asymmetric, `${b64({ alg: 'none' })}.${b64(CLAIMS)}.`],
    ['82: HS256 with the public key', asymmetric, await sign(CLAIMS, { kid: 'k1' }, new TextEncoder().encode(pem))],
    ['83: another issuer', shared, await hs({ iss: 'https://evil.example' })],
    ['83: another audience', shared, await hs({ aud: 'other' })],
    ['83: another type', shared, await hs({}, { typ: 'id+jwt' })],
    ['84: no exp', shared, await hs({ exp: undefined })],
    ['84: its time is over', shared, await hs({ exp: past })],
    ['84: not yet', shared, await hs({ nbf: Math.floor(Date.now() / 1000) + 600 })],
    ['no subject', shared, await hs({ sub: undefined })],
    [
      '85: an unknown crit',
      shared,
      `${b64({ alg: 'HS256', crit: ['x'], x: 1 })}.${(await hs()).split('.').slice(1).join('.')}`,
    ],
    ['86: an unknown kid', asymmetric, await rs({}, { kid: "' OR 1=1 --" })],
    ['86: a kid that is a path', asymmetric, await rs({}, { kid: '../../etc/passwd' })],
    ['another algorithm', shared, await sign(CLAIMS, { alg: 'HS512' }, new TextEncoder().encode(secret.repeat(2)))],
    ['another secret', shared, await sign(CLAIMS, {}, new TextEncoder().encode('x'.repeat(40)))],
    ['models that are no list', shared, await hs({ models: 'small' })],
    ['models that are no names', shared, await hs({ models: ['small', 1] })],
    ['a limit of 0', shared, await hs({ requestsPerMinute: 0 })],
    ['a limit that is no number', shared, await hs({ tokensPerMinute: '1' })],
    ['a limit of one and a half', shared, await hs({ maxConcurrent: 1.5 })],
    ['a changed claim', shared, (await hs()).replace(/\.(.*)\./, `.${b64({ ...CLAIMS, sub: 'admin' })}.`)],
  ];
  for (const [name, where, token] of bad) t.equal(await status(where, token), 401, name);

  const before = fetched;
  const jku = `http://127.0.0.1:${shared.upstream.url.split(':')[2] as string}/keys`;
  t.equal(await status(asymmetric, await rs({}, { kid: 'none', jku, x5u: jku })), 401, '86: jku and x5u');
  t.equal(shared.upstream.calls.length, 0, 'nobody fetched them');
  t.ok(fetched <= before + 1, `the key set was fetched ${fetched} times`);

  const models = async (token: string) =>
    (await (await shared.call('/v1/models', { headers: bearer(token) })).json()) as { data: { id: string }[] };
  t.same(
    (await models(await hs({ models: ['small'] }))).data.map(({ id }) => id),
    ['small'],
    'claims narrow',
  );
  const make = async (token: string) =>
    (
      (await (
        await shared.call('/streams', { method: 'POST', headers: bearer(token), body: { question: 'q' } })
      ).json()) as { id: string }
    ).id;
  const stream = await make(await hs({ sub: 'user-1' }));
  const get = async (claims: Claims) =>
    (await shared.call(`/streams/${stream}`, { headers: bearer(await hs(claims)) })).status;
  t.equal(await get({ sub: 'user-1', extra: 1 }), 200, 'another token of the same subject');
  t.equal(await get({ sub: 'user-10' }), 404, '87: no mixing of those that begin alike');

  issuer.close();
  const lonely = await service(t, completeAnswer('x'), settings('jwksUrl: "http://127.0.0.1:1/keys"', 'RS256'));
  t.equal(await status(lonely, await rs()), 503, 'a key set that cannot be fetched is not the caller’s fault');
});

t.test('limits: requests, answers at once, tokens', async (t) => {
  const key = (name: string, limits: string) => `  - { name: ${name}, sha256: ${sha256(name)}, ${limits} }`;
  const keys = [
    'keys:',
    key('req', 'requestsPerMinute: 3'),
    key('str', 'maxConcurrent: 1'),
    key('tok', 'tokensPerMinute: 3000'),
    key('guess', 'requestsPerMinute: 3'),
  ].join('\n');
  const usage = 'data: {"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":2890,"total_tokens":2900}}\n\n';
  const { url, call, app } = await service(
    t,
    ({ body, response }) => {
      if (body.includes('stay')) return void sse(response).write(text('one '));
      sse(response).end(text('x') + STOP + (body.includes('much') ? usage : usage.replace('2900', '20')) + DONE);
    },
    keys,
  );
  const ask = (name: string, question: string, extra = {}) =>
    call('/ask/stream', { method: 'POST', headers: bearer(name), body: { question, ...extra } });

  for (let left = 2; left >= 0; left--) {
    const response = await ask('req', 'q');
    t.equal(response.status, 200);
    t.match(
      ['limit', 'remaining', 'reset'].map((one) => response.headers.get(`ratelimit-${one}`)),
      ['3', String(left), /^\d+$/],
    );
    await response.text();
  }
  const dodging = { ...bearer('req'), 'last-event-id': 'A'.repeat(22) };
  t.equal(
    (await call('/streams', { method: 'POST', headers: dodging, body: { question: 'q' } })).status,
    429,
    'no header helps',
  );
  const over = await ask('req', 'q');
  t.equal(over.status, 429);
  t.ok(Number(over.headers.get('retry-after')) > 0);
  t.match(await over.json(), { error: { code: 'rate_limited' } });
  const source = await readAll(`${url}/ask/stream?question=q`, { headers: bearer('req') });
  t.match(
    source.events.map(({ json }) => json),
    [{ type: 'error', code: 'rate_limited', retryable: true, retryAfter: Number }],
    'an EventSource is told in band',
  );
  const again = await fetch(`${url}/ask/stream?question=q`, {
    headers: { ...bearer('req'), accept: 'text/event-stream', 'last-event-id': source.events[0]?.id ?? '' },
  });
  t.equal(again.status, 204, 'and what comes back is not counted');

  const guesses = [];
  for (let i = 0; i < 5; i++) {
    const id = 'G'.repeat(21) + i;
    const headers = i % 2 ? { ...bearer('guess'), 'last-event-id': `${id}.1` } : bearer('guess');
    const response = await call(`/streams/${id}`, { headers });
    guesses.push(response.status);
    await response.text();
  }
  t.same(guesses, [404, 200, 404, 429, 429], '91: who guesses at ids is counted, resuming or not');

  const running = await open(`${url}/ask/stream`, { body: { question: 'stay' }, headers: bearer('str') });
  await running.until('delta');
  t.equal((await ask('str', 'q')).status, 429, 'one answer at once');
  running.cut();
  await until(() => app.streams.active === 0, 'it has ended');
  for (const what of ['and the next when it has ended', 'and the next']) {
    const response = await ask('str', 'q');
    t.equal(response.status, 200, what);
    await response.text();
    await until(() => app.streams.active === 0, 'it has ended');
  }

  for (const question of ['little', 'little', 'little', 'much']) {
    const response = await ask('tok', question);
    t.equal(response.status, 200, `${question}: estimates are given back`);
    await response.text();
    await until(() => app.streams.active === 0, 'it has ended');
  }
  t.equal((await ask('tok', 'little')).status, 429, 'what was really used is charged');
  t.equal((await app.metrics.refusals.get()).values.find(({ labels }) => labels.reason === 'limit_tokens')?.value, 1);
});

t.test('what a key may is looked up when its ticket is used', async (t) => {
  const names = Array.from({ length: 900 }, () => 'small');
  const wide = `keys:\n  - { name: a, sha256: ${sha256(A)}, models: [small, ${names.join(', ')}] }`;
  const { app, url, ticket } = await service(t, completeAnswer('x'), wide);
  const ask = (text: string) => fetch(`${url}/ask/stream?question=q&model=small&ticket=${text}`);
  t.equal((await ask(await ticket(A))).status, 200, 'however many models it has');
  const text = await ticket(A);
  app.reloadConfig({ ...app.config, keys: [{ name: 'b', sha256: sha256(B) }] });
  t.equal((await ask(text)).status, 401, 'it is worth nothing once its key is taken back');
  t.throws(
    () => app.reloadConfig({ ...app.config, keys: [] }),
    /needs a restart/,
    'and nobody opens the door by mistake',
  );
  t.equal((await fetch(`${url}/v1/models`)).status, 401);
});
