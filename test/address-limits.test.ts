import t, { type Test } from 'tap';
import { type BuildOptions, bearer, build, captureLog, serve, sha256, until, writeConfig } from './helper.ts';
import { metricValue } from './metric-value.ts';
import { postJson } from './post-json.ts';
import { open, readAll } from './sse-client.ts';
import { completeAnswer, startUpstream, unfinishedAnswer } from './upstream.ts';

/** Limits by client address of a whole service: of unauthenticated requests, and of a service without keys. */

const KEY = 'sk-test-key';
const KEYS = `keys: [{ name: web, sha256: ${sha256(KEY)} }]`;
const ALLOWED = 3;

/** Builds a service with keys that allows three unauthenticated requests. */
function buildLimited(t: Test, yaml = KEYS, options: BuildOptions = {}) {
  const file = writeConfig(t, `${yaml}\nlimits: { unauthenticatedPerMinute: ${ALLOWED} }\n`);
  return build(t, { ...options, env: { CONFIG_FILE: file, ...options.env } });
}

t.test(
  'public paths, unknown paths and wrong methods are refused beyond the limit, in the form of their API',
  async (t) => {
    const cases: [method: 'GET' | 'HEAD' | 'PUT' | 'POST', path: string, below: number][] = [
      ['GET', '/', 200],
      ['HEAD', '/', 200],
      ['GET', '/style.css', 200],
      ['GET', '/docs', 200],
      ['GET', '/vendor/marked.js', 200],
      ['GET', '/openapi.json', 200],
      ['GET', '/nothing', 404],
      ['GET', '/v1/nothing', 404],
      ['PUT', '/metrics', 405],
      ['PUT', '/streams', 405],
      ['PUT', '/v1/models', 405],
      ['POST', '/streams', 401],
      ['GET', '/v1/models', 401],
      ['GET', '/ask/stream?question=q', 401],
    ];
    const app = await buildLimited(t);
    for (const [i, [method, url, below]] of cases.entries()) {
      const name = `${method} ${url}`;
      const send = (headers = {}) => app.inject({ method, url, headers, remoteAddress: `192.0.2.${i}` });
      for (let n = 0; n < ALLOWED; n++) {
        t.equal((await send()).statusCode, below, `${name}: below the limit`);
      }
      const refused = await send();
      t.equal(refused.statusCode, 429, `${name}: beyond the limit`);
      t.ok(Number(refused.headers['retry-after']) > 0, `${name}: Retry-After`);
      if (method === 'HEAD') continue;
      const code = url.startsWith('/v1')
        ? { error: { code: 'rate_limited', type: String, param: null } }
        : { error: { code: 'rate_limited', requestId: String } };
      t.match(refused.json(), code, `${name}: the body`);
      t.equal((await send(bearer(KEY))).statusCode === 429, false, `${name}: with a key`);
    }
    t.equal(
      await metricValue(app, 'sluice_refusals_total', { reason: 'limit_address' }),
      cases.length,
      'counted refusals',
    );
    for (let n = 0; n < 3 * ALLOWED; n++) {
      for (const url of ['/livez', '/readyz', '/readyz?verbose', '/metrics']) {
        const { statusCode } = await app.inject({ url, remoteAddress: '192.0.2.1' });
        t.not(statusCode, 429, `${url} has no limit`);
      }
    }
  },
);

t.test('a preflight of CORS does not count', async (t) => {
  const app = await buildLimited(t, KEYS, { env: { CORS_ORIGINS: 'https://app.example' } });
  const headers = { origin: 'https://app.example', 'access-control-request-method': 'POST' };
  for (let n = 0; n < 3 * ALLOWED; n++) {
    t.equal((await app.inject({ method: 'OPTIONS', url: '/streams', headers })).statusCode, 204);
  }
  t.equal((await app.inject('/nothing')).statusCode, 404);
});

t.test('beyond the limit a ticket still asks and reads, and an EventSource without one gets 401', async (t) => {
  const upstream = await startUpstream(t, completeAnswer('x'));
  const yaml = `${KEYS}
providers: { it: { type: openai-compatible, baseUrl: "${upstream.url}/v1", apiKeys: [k] } }
models: [{ name: m, targets: [{ provider: it, model: m }] }]
limits: { unauthenticatedPerMinute: ${ALLOWED} }`;
  const { url } = await serve(t, { env: { CONFIG_FILE: writeConfig(t, yaml), DEFAULT_MODEL: 'm' } });
  for (let n = 0; n <= ALLOWED; n++) await (await fetch(`${url}/nothing`)).text();
  const created = await postJson(`${url}/tickets`, {}, bearer(KEY));
  t.equal(created.status, 201, 'a key');
  const { ticket } = (await created.json()) as { ticket: string };
  const { events } = await readAll(`${url}/ask/stream?question=q&ticket=${ticket}`);
  t.equal(events.at(-1)?.json.type, 'end', 'a ticket asks');
  const again = await readAll(url + events[0]?.json.url);
  t.equal(again.events.at(-1)?.json.type, 'end', 'a ticket reads');
  t.equal((await open(`${url}/ask/stream?question=q&ticket=${ticket}x`)).response.statusCode, 401, 'a forged one');
  t.equal((await fetch(`${url}/ask/stream?question=q`)).status, 429, 'no EventSource');
});

t.test('without keys, limits count by client address; every client can read every stream', async (t) => {
  const upstream = await startUpstream(t, unfinishedAnswer('x'));
  const yaml = `anonymous: { requestsPerMinute: 3, maxConcurrent: 2 }
providers: { it: { type: openai-compatible, baseUrl: "${upstream.url}/v1", apiKeys: [k] } }
models: [{ name: m, targets: [{ provider: it, model: m }] }]`;
  const env = { CONFIG_FILE: writeConfig(t, yaml), DEFAULT_MODEL: 'm', TRUST_PROXY: '1' };
  const { app, url } = await serve(t, { env });
  const from = (address: string) => ({ 'x-forwarded-for': address });
  const ask = (address: string) => postJson(`${url}/streams`, { question: 'q' }, from(address));

  const first = await ask('203.0.113.1');
  t.equal(first.status, 201);
  t.equal(first.headers.get('ratelimit-remaining'), '2', 'RateLimit headers');
  t.equal((await ask('198.51.100.1, 203.0.113.1')).status, 201, 'an address that the client invented is ignored');
  t.match(await (await ask('198.51.100.2, 203.0.113.1')).json(), { error: { code: 'rate_limited' } }, 'a third answer');
  t.equal(await metricValue(app, 'sluice_refusals_total', { reason: 'limit_concurrent' }), 1);
  t.equal((await ask('198.51.100.3, 203.0.113.1')).status, 429, 'a fourth request');
  t.equal(await metricValue(app, 'sluice_refusals_total', { reason: 'limit_requests' }), 1);
  const source = await readAll(`${url}/ask/stream?question=q`, { headers: from('203.0.113.1') });
  t.match(
    source.events.map(({ json }) => json),
    [{ type: 'error', code: 'rate_limited', retryable: true, retryAfter: Number }],
    'an EventSource gets the refusal as an event',
  );
  t.equal((await ask('203.0.113.2')).status, 201, 'another client has limits of its own');

  const { id } = (await first.json()) as { id: string };
  const reader = await open(`${url}/streams/${id}`, { headers: from('203.0.113.2') });
  t.equal((await reader.until('start')).json.stream, id, 'another client reads the stream');
  t.equal((await fetch(`${url}/streams/${id}`, { method: 'DELETE', headers: from('203.0.113.2') })).status, 204);
  await reader.until('end');
  await until(() => app.streams.active === 2, 'the answer has ended');
});

t.test('without the block, a service without keys has no limits', async (t) => {
  const app = await build(t);
  for (let n = 0; n < 50; n++) {
    const { statusCode, headers } = await app.inject('/v1/models');
    t.equal(statusCode, 200);
    t.equal(headers['ratelimit-limit'], undefined);
  }
});

t.test('TRUST_PROXY decides whose limit a request uses up, and whether a warning is due', async (t) => {
  const cases: [trustProxy: string, isShared: boolean, isWarned: boolean][] = [
    ['', true, true],
    ['false', true, true],
    ['0', true, true],
    ['1', false, false],
    ['true', false, false],
    ['loopback', false, false],
    ['10.0.0.0/8', true, false],
  ];
  for (const [trustProxy, isShared, isWarned] of cases) {
    const { logTo, log } = captureLog();
    const app = await buildLimited(t, KEYS, { env: { TRUST_PROXY: trustProxy }, logTo });
    const send = async (i: number) =>
      (await app.inject({ url: '/nothing', headers: { 'x-forwarded-for': `203.0.113.${i}` } })).statusCode;
    for (let i = 0; i < ALLOWED; i++) await send(i);
    t.equal(await send(ALLOWED), isShared ? 429 : 404, `TRUST_PROXY=${trustProxy}`);
    for (let i = 0; i < ALLOWED; i++) await send(99);
    t.equal(await send(99), 429, `TRUST_PROXY=${trustProxy}: one client`);
    t.equal(/set TRUST_PROXY/.test(log()), isWarned, `TRUST_PROXY=${trustProxy}: the warning`);
  }
});
