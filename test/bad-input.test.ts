import { once } from 'node:events';
import { connect } from 'node:net';
import fc from 'fast-check';
import t from 'tap';
import { duplicateKey } from '../plugins/http/json-keys.ts';
import { bellaAt, build, serve, sha256, until, writeConfig } from './helper.ts';
import { metricValue } from './metric-value.ts';
import { completeAnswer, startUpstream } from './upstream.ts';

/**
 * Malformed and hostile requests, sent over plain sockets because an HTTP client would reject many of them. Each
 * gets the expected status and error body, no part of the input is repeated, and the provider is not called.
 * The numbers are those of the project's reliability checklist.
 */

const INPUT = /CANARY/;
const json = (body: string, headers = '') =>
  `POST /ask/stream HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(body)}\r\n${headers}\r\n${body}`;
const withType = (type: string, body = '{"question":"CANARY"}') =>
  `POST /ask/stream HTTP/1.1\r\nHost: localhost\r\nContent-Type: ${type}\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`;
const post = (headers: string, body = '') =>
  `POST /ask/stream HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n${headers}\r\n${body}`;
const get = (path: string, headers = '') => `GET ${path} HTTP/1.1\r\nHost: localhost\r\n${headers}\r\n`;
const ASK = '/ask/stream?question=CANARY';
const BROWSER = 'User-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n';
const STREAM = 'A'.repeat(22);

/** Number, name, bytes sent, status received; 0 if the connection is closed without a response. */
const ROWS: [number, string, string | Buffer, number][] = [
  [
    1,
    'Content-Length and Transfer-Encoding',
    post('Content-Length: 5\r\nTransfer-Encoding: chunked\r\n', '0\r\n\r\n'),
    400,
  ],
  [2, 'Transfer-Encoding: chunked, identity', post('Transfer-Encoding: chunked, identity\r\n', '0\r\n\r\n'), 400],
  [3, 'Transfer-Encoding: xchunked', post('Transfer-Encoding: xchunked\r\n'), 400],
  [4, 'two Content-Lengths', post('Content-Length: 2\r\nContent-Length: 3\r\n', '{}'), 400],
  [5, 'Content-Length: +5', post('Content-Length: +5\r\n', '{}   '), 400],
  [5, 'Content-Length: -1', post('Content-Length: -1\r\n', '{}'), 400],
  [5, 'Content-Length: 2^64', post('Content-Length: 18446744073709551616\r\n', '{}'), 400],
  [6, 'Content-Length: 9e15', post('Content-Length: 9000000000000000\r\n', '{}'), 413],
  [9, 'a space before the colon', 'GET /livez HTTP/1.1\r\nHost : localhost\r\n\r\n', 400],
  [10, 'a folded header', get('/livez', 'X: a\r\n b\r\n'), 400],
  [11, 'bare LF', 'GET /livez HTTP/1.1\nHost: localhost\n\n', 400],
  [12, 'bare CR', get('/livez', 'X: a\rb\r\n'), 400],
  [13, 'NUL in a header', get('/livez', 'X: a\0b\r\n'), 400],
  [14, 'no Host', 'GET /livez HTTP/1.1\r\n\r\n', 400],
  [15, 'two Hosts', 'GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n', 400],
  [17, 'an invalid chunk size', post('Transfer-Encoding: chunked\r\n', 'zz\r\n'), 400],
  [
    18,
    'a chunk extension of 20 KiB',
    post('Transfer-Encoding: chunked\r\n', `2;${'a'.repeat(20_480)}\r\n{}\r\n0\r\n\r\n`),
    400,
  ],
  [20, 'HTTP/1.2', 'GET /livez HTTP/1.2\r\nHost: localhost\r\n\r\n', 400],
  [20, 'HTTP/9.9', 'GET /livez HTTP/9.9\r\nHost: localhost\r\n\r\n', 400],
  [21, 'the preface of HTTP/2', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 400],
  [22, 'a TLS handshake', Buffer.from('16030102000100010003', 'hex'), 400],
  [24, 'Upgrade', get('/livez', 'Connection: Upgrade\r\nUpgrade: h2c\r\n'), 200],
  [25, 'an unknown Expect', get('/livez', 'Expect: CANARY\r\n'), 417],
  [26, 'headers of 17 KiB', get('/livez', `X: ${'a'.repeat(17_000)}\r\n`), 431],
  [27, 'a URL of 17 KiB', get(`${ASK}${'a'.repeat(17_000)}`), 431],
  [28, 'a URL of 9 KiB', get(`${ASK}${'a'.repeat(9_000)}`), 414],
  [29, '1,500 headers', get('/livez', 'a: b\r\n'.repeat(1_500)), 431],
  [30, 'a header __proto__', get('/livez', '__proto__: x\r\n'), 200],
  [31, 'TRACE', 'TRACE /livez HTTP/1.1\r\nHost: localhost\r\n\r\n', 405],
  [32, 'CONNECT', 'CONNECT a:1 HTTP/1.1\r\nHost: localhost\r\n\r\n', 0],
  [33, 'FOO', 'FOO /livez HTTP/1.1\r\nHost: localhost\r\n\r\n', 400],
  [33, 'get', 'get /livez HTTP/1.1\r\nHost: localhost\r\n\r\n', 400],
  [34, 'HEAD', `HEAD ${ASK} HTTP/1.1\r\nHost: localhost\r\n\r\n`, 405],
  [35, 'OPTIONS without CORS', 'OPTIONS /ask/stream HTTP/1.1\r\nHost: localhost\r\n\r\n', 404],
  [36, 'the wrong method', 'PUT /ask/stream HTTP/1.1\r\nHost: localhost\r\n\r\n', 405],
  [37, 'a GET with a body', `${get(ASK, 'Content-Length: 2\r\n')}{}`, 400],
  [39, 'an id of NUL', get('/streams/%00'), 404],
  [40, 'an id of CRLF', get('/streams/%0d%0a'), 404],
  [41, 'an id of ../', get('/streams/..%2f'), 404],
  [42, 'bad percent encoding', get('/streams/%zz'), 400],
  [42, 'overlong UTF-8', get('/streams/%c0%af'), 400],
  [43, 'an id of 101 characters', get(`/streams/${'a'.repeat(101)}`), 414],
  [44, 'an id of non-Latin letters', get('/streams/%D0%B0%E2%80%AE'), 404],
  [45, 'a duplicate query parameter', get(`${ASK}&question=b`), 400],
  [46, '__proto__ in the query', get(`${ASK}&__proto__[x]=1`), 400],
  [47, '2,000 parameters', get(`${ASK}&${'a=1&'.repeat(1_990)}`), 400],
  [48, 'access_token in the query', get(`${ASK}&access_token=CANARY`), 400],
  [49, 'a truncated body', json('{"question":"CANARY"'), 400],
  [49, 'an empty body', json(''), 400],
  [50, 'an array', json('["CANARY"]'), 400],
  [50, 'null', json('null'), 400],
  [51, '__proto__ in the body', json('{"question":"CANARY","__proto__":{"x":1}}'), 400],
  [51, '__proto__ written with an escape', json('{"question":"CANARY","__\\u0070roto__":{"x":1}}'), 400],
  [51, 'constructor.prototype', json('{"question":"CANARY","constructor":{"prototype":{}}}'), 400],
  [52, 'a depth of 100,000', json(`{"question":"CANARY","x":${'['.repeat(100_000)}${']'.repeat(100_000)}}`), 400],
  [52, '340,000 objects in one body', json(`{"question":"CANARY","x":[${'{},'.repeat(340_000)}{}]}`), 400],
  [53, '1e999', json('{"question":"CANARY","temperature":1e999}'), 400],
  [54, 'a duplicate key', json('{"question":"CANARY","question":"b"}'), 400],
  [54, 'a duplicate key written with an escape', json('{"question":"CANARY","\\u0071uestion":"b"}'), 400],
  [55, 'a byte order mark', json('\ufeff{"question":"CANARY"}'), 200],
  [
    56,
    'invalid UTF-8',
    Buffer.concat([Buffer.from(post('Content-Length: 16\r\n', '{"question":"')), Buffer.from([0xff, 0x22, 0x7d])]),
    400,
  ],
  [57, 'an unpaired surrogate', json('{"question":"\\ud800"}'), 200],
  [58, 'more than a mebibyte', json(`{"question":"${'x'.repeat(1_100_000)}"}`), 413],
  [59, 'api_base', json('{"question":"CANARY","api_base":"http://evil.example"}'), 400],
  [59, 'headers', json('{"question":"CANARY","headers":{"a":"b"}}'), 400],
  [60, 'the wrong type', json('{"question":1}'), 400],
  [
    61,
    'more messages than are accepted',
    json(`{"messages":[${Array(1_001).fill('{"role":"user","content":"x"}').join()}]}`),
    400,
  ],
  [62, 'maxTokens of -1', json('{"question":"CANARY","maxTokens":-1}'), 400],
  [62, 'maxTokens of 1e9', json('{"question":"CANARY","maxTokens":1000000000}'), 400],
  [62, 'maxTokens of 1.5', json('{"question":"CANARY","maxTokens":1.5}'), 400],
  [64, 'a content type after a space', withType(' application/json', '{"question":1}'), 400],
  [65, 'a content type with a tab', withType('application/json\ta'), 415],
  [65, 'two content types', withType('application/json, x'), 415],
  [66, 'text/plain', withType('text/plain'), 415],
  [67, 'XML', withType('application/xml'), 415],
  [67, 'multipart', withType('multipart/form-data; boundary=x'), 415],
  [68, 'UTF-16', withType('application/json; charset=utf-16'), 415],
  [69, 'a compressed body', json('{}', 'Content-Encoding: gzip\r\n'), 415],
  [70, 'Accept: application/json', get(ASK, 'Accept: application/json\r\n'), 406],
  [71, 'an invalid Last-Event-ID', get(ASK, 'Last-Event-ID: CANARY\r\n'), 400],
  [71, 'a Last-Event-ID with a negative position', get(ASK, `Last-Event-ID: ${STREAM}.-1\r\n`), 400],
  [71, 'a Last-Event-ID of 1 KiB', get(ASK, `Last-Event-ID: ${'a'.repeat(1_024)}\r\n`), 400],
  [71, 'a Last-Event-ID in Latin-1', Buffer.from(get(ASK, 'Last-Event-ID: caf\u00e9\r\n'), 'latin1'), 400],
  [72, 'two Last-Event-IDs', get(ASK, `Last-Event-ID: ${STREAM}.1\r\nLast-Event-ID: ${STREAM}.2\r\n`), 400],
  [88, 'two Authorizations', get(ASK, 'Authorization: Bearer a\r\nAuthorization: Bearer b\r\n'), 400],
  [92, 'an Origin that is not listed', get(ASK, 'Origin: https://evil.example\r\n'), 403],
  [92, 'the Origin null', get(ASK, 'Origin: null\r\n'), 403],
  [92, 'an Origin that contains a listed one', get(ASK, 'Origin: https://ok.example.evil.example\r\n'), 403],
  [
    93,
    'the preflight of an Origin that is not listed',
    'OPTIONS /ask/stream HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\nAccess-Control-Request-Method: POST\r\n\r\n',
    403,
  ],
  [
    95,
    'a no-cors request from another site',
    get(ASK, 'Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n'),
    403,
  ],
  ...['Sec-Fetch-Site: cross-site', 'Sec-Fetch-Site: same-site'].map((site): [number, string, string, number] => [
    95,
    `${site} without an Origin`,
    get(ASK, `${site}\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\nAccept: text/event-stream\r\n`),
    403,
  ]),
  ...['image', 'script', 'iframe', 'document'].map((dest): [number, string, string, number] => [
    95,
    `an element of the same site with the destination ${dest}`,
    get(ASK, `Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Dest: ${dest}\r\n`),
    403,
  ]),
  ...['no-cors', 'navigate', 'nested-navigate', 'websocket'].map((mode): [number, string, string, number] => [
    95,
    `the mode ${mode}`,
    get(ASK, `Sec-Fetch-Site: none\r\nSec-Fetch-Mode: ${mode}\r\nSec-Fetch-Dest: empty\r\n`),
    403,
  ]),
  [95, 'an <img> over plain HTTP', get(ASK, `${BROWSER}Accept: image/avif,*/*;q=0.8\r\n`), 403],
  [95, 'a <script> over plain HTTP', get(ASK, `${BROWSER}Accept: */*\r\n`), 403],
  [
    95,
    'a no-cors fetch of another page over plain HTTP',
    get(ASK, `${BROWSER}Accept: text/event-stream\r\nReferer: http://evil.example/page\r\n`),
    403,
  ],
  [95, 'an invalid Referer', get(ASK, `${BROWSER}Accept: text/event-stream\r\nReferer: CANARY\r\n`), 403],
  ...['evil.example', 'evil.example:80', 'localhost.evil.example', '10.0.0.1', '127.0.0.1.evil.example', '%'].map(
    (host): [number, string, string, number] => [
      76,
      `the Host ${host} on loopback without keys`,
      `GET /livez HTTP/1.1\r\nHost: ${host}\r\n\r\n`,
      403,
    ],
  ),
  [95, 'a prefetch', get(ASK, 'Sec-Purpose: prefetch\r\n'), 204],
  ...['../../files', '%2e%2e', 'm:x?key=', '@evil', 'a%0d%0ab'].map((model): [number, string, string, number] => [
    96,
    `the model ${model}`,
    get(`${ASK}&model=${encodeURIComponent(model)}`),
    model === 'm:x?key=' || /[%.@]/.test(model) ? 400 : 404,
  ]),
  [99, 'a request id of 1 KiB', get('/livez', `X-Request-Id: ${'a'.repeat(1_024)}\r\n`), 200],
];

interface RawResponse {
  readonly status: number;
  readonly head: string;
  readonly body: string;
}

/** Sends bytes and returns the response; status 0 if there is none after `ms`. */
async function send(url: string, bytes: string | Buffer, ms = 20_000): Promise<RawResponse> {
  const socket = connect(Number(new URL(url).port), '127.0.0.1').on('error', () => {});
  let received = '';
  const isHead = bytes.toString().startsWith('HEAD');
  const closed = once(socket, 'close');
  const timeout = setTimeout(() => socket.destroy(), ms);
  socket.on('data', (data) => {
    received += data.toString('latin1');
    const [head = '', body = ''] = received.split('\r\n\r\n');
    const length = /content-length: (\d+)/i.exec(head)?.[1];
    if (received.includes('\r\n\r\n') && (length === undefined || isHead || body.length >= Number(length)))
      socket.destroy();
  });
  socket.write(bytes);
  await closed;
  clearTimeout(timeout);
  const [head = '', body = ''] = received.split('\r\n\r\n');
  return { status: Number(/^HTTP\/1\.1 (\d+)/.exec(head)?.[1] ?? 0), head, body };
}

t.test('a malformed or hostile request gets its status and an error body, and calls no provider', async (t) => {
  const upstream = await startUpstream(t, completeAnswer('x'));
  const { app, url } = await serve(t, { env: bellaAt(upstream.url, { CORS_ORIGINS: 'https://ok.example' }) });
  for (const [number, name, bytes, status] of ROWS) {
    const count = () => metricValue(app, 'sluice_requests_total', { status: String(status) });
    const counted = await count();
    const response = await send(url, bytes);
    if (status >= 400) await until(async () => (await count()) === counted + 1, `${number} ${name}: counted once`);
    t.equal(response.status, status, `${number} ${name}: status`);
    const { head, body } = response;
    t.notMatch(head + body.replace(/^.*"type":"start".*$/m, ''), INPUT, `${number} ${name}: the input is not repeated`);
    t.notMatch(body, /\n\s+at /, `${number} ${name}: no stack trace`);
    if (status < 400) continue;
    if (!bytes.toString().startsWith('HEAD')) {
      t.match(
        JSON.parse(body),
        { error: { code: /^[a-z_]+$/, message: /\.$/, requestId: /./ } },
        `${number} ${name}: error body`,
      );
    }
    if (status === 403) t.notMatch(head, /access-control-allow-origin/i, `${number} ${name}: no CORS header`);
  }
  const accepted = ROWS.filter(([, , bytes, status]) => status === 200 && bytes.includes('/ask/stream')).length;
  t.ok(upstream.calls.length <= accepted, 'only accepted questions call the provider');
});

t.test('a request that is not completed in time gets 408', async (t) => {
  const { url } = await serve(t);
  // The client sends nothing more, so that the deadlines of the service end the request.
  const statusOf = async (bytes: string) => (await send(url, bytes, 50_000)).status;
  const [body, headers, http09] = await Promise.all([
    statusOf(post('Content-Length: 50\r\n', '{}')),
    statusOf('GET /livez HTTP/1.1\r\nHo'),
    statusOf('GET /livez\r\n'),
  ]);
  t.equal(body, 408, 'an incomplete body');
  t.equal(headers, 408, 'incomplete headers');
  t.ok(http09 === 408 || http09 === 400, `HTTP/0.9 gets ${http09}`);
});

t.test('unusual but valid requests are accepted', async (t) => {
  const { url } = await serve(t, { env: { CORS_ORIGINS: 'https://ok.example', DEFAULT_MODEL: 'demo/demo' } });
  const long = encodeURIComponent('问'.repeat(900));
  t.equal((await send(url, get(`/ask/stream?question=${long}`))).status, 200, '28: 900 Chinese characters');
  const absolute = await send(url, get('http://other.example/livez'));
  t.equal(absolute.status, 200, '16: an absolute URL is routed by its path');
  const listed = await send(url, get(ASK, 'Origin: https://ok.example\r\nSec-Fetch-Site: cross-site\r\n'));
  t.equal(listed.status, 200, 'a listed Origin');
  t.match(listed.head, /access-control-allow-origin: https:\/\/ok\.example/i, 'a listed Origin gets its CORS header');
  t.equal((await send(url, get(ASK, 'Origin: http://localhost\r\n'))).status, 200, 'an Origin that equals the Host');
  const proxied = await send(url, get(ASK, 'Origin: https://public.example\r\nSec-Fetch-Site: same-origin\r\n'));
  t.equal(proxied.status, 200, 'the same origin behind a gateway that changes the host');
  const askedBy: Record<string, string> = {
    'an EventSource over HTTPS':
      'Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\nAccept: text/event-stream\r\n',
    'an EventSource over plain HTTP': `${BROWSER}Accept: text/event-stream\r\nReferer: http://localhost/page\r\n`,
    'the page of a listed origin behind a gateway that changes the host': `${BROWSER}Accept: text/event-stream\r\nReferer: https://ok.example/\r\n`,
    'a page without a referrer': `${BROWSER}Accept: text/event-stream\r\n`,
    'a client that is no browser': 'User-Agent: curl/8.5.0\r\nAccept: */*\r\n',
  };
  for (const [name, headers] of Object.entries(askedBy))
    t.equal((await send(url, get(ASK, headers))).status, 200, name);
  for (const host of [
    'localhost',
    'LOCALHOST:8080',
    'app.localhost',
    '127.0.0.1:80',
    '127.1.2.3',
    '[::1]:8080',
    'ok.example',
  ]) {
    const { status } = await send(url, `GET /livez HTTP/1.1\r\nHost: ${host}\r\n\r\n`);
    t.equal(status, 200, `the Host ${host} on loopback`);
  }
  t.equal((await send(url, 'GET /livez HTTP/1.0\r\n\r\n')).status, 200, 'HTTP/1.0 without Host, as balancers send it');
  const pipelined = get('/livez') + get('/readyz');
  t.equal((await send(url, pipelined)).status, 200, '23: pipelined requests');
  const overridden = await send(url, get('/livez', 'X-HTTP-Method-Override: DELETE\r\n'));
  t.equal(overridden.status, 200, '38: X-HTTP-Method-Override is ignored');
});

t.test('any Host is accepted with keys, off loopback, and if every origin may call', async (t) => {
  const foreign = 'GET /livez HTTP/1.1\r\nHost: evil.example\r\n\r\n';
  for (const [name, env] of Object.entries<Record<string, string>>({
    'with keys': { CONFIG_FILE: writeConfig(t, `keys: [{ name: a, sha256: ${sha256('a')} }]`) },
    'off loopback': { HOST: '0.0.0.0' },
    'with CORS_ORIGINS=*': { CORS_ORIGINS: '*' },
  })) {
    const { url } = await serve(t, { env });
    t.equal((await send(url, foreign)).status, 200, name);
  }
});

t.test('duplicateKey finds a duplicate key, and only that', async (t) => {
  const { anything, assert, property, string, json } = fc;
  assert(property(json(), (text) => duplicateKey(text) === undefined));
  assert(
    property(string(), anything(), string(), (key, value, other) => {
      const pair = (name: string) => `${JSON.stringify(name)} :${JSON.stringify(value) ?? 'null'}`;
      const duplicate = `{"a":[{${pair(key)}, ${pair(key)}}]}`;
      return (
        duplicateKey(duplicate) === key &&
        (other === key || duplicateKey(`{${pair(key)},${pair(other)}}`) === undefined)
      );
    }),
  );
  t.equal(
    duplicateKey('{"a\\"":1,"a":"a\\\\","b":{"a":1}}'),
    undefined,
    'an escaped quote, and a key of another object',
  );
});

t.test('no generated input gets a 5xx other than 503', async (t) => {
  const app = await build(t, { env: { DEFAULT_MODEL: 'demo/demo' } });
  const { anything, asyncProperty, constantFrom, dictionary, oneof, string, array } = fc;
  const check = async (path: string, options: object) => {
    const response = await app.inject({ url: path, ...options });
    return response.statusCode < 500 || response.statusCode === 503;
  };
  const field = oneof(string(), constantFrom('question', 'model', 'key', 'system', 'lastEventId', 'messages', 'role'));
  const path = constantFrom('/ask/stream', '/streams', '/v1/chat/completions', '/ui/chat', '/tickets');
  await fc.assert(
    asyncProperty(dictionary(field, string()), async (query) =>
      check(`/streams/${'A'.repeat(22)}?${new URLSearchParams(query)}`, {}),
    ),
    { numRuns: 200 },
  );
  const value = oneof(anything({ withNullPrototype: false }), array(dictionary(field, anything())));
  await fc.assert(
    asyncProperty(path, dictionary(field, value), async (url, body) =>
      // The invalid question keeps the request from being accepted: only rejections are tested.
      check(url, {
        method: 'POST',
        payload: JSON.stringify({ ...body, question: 1 }),
        headers: { 'content-type': 'application/json' },
      }),
    ),
    { numRuns: 500 },
  );
  await fc.assert(
    asyncProperty(fc.base64String(), async (id) => check('/ask/stream', { headers: { 'last-event-id': `${id}.x` } })),
    { numRuns: 200 },
  );
  t.pass('900 generated requests');
});
