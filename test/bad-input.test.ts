import { once } from 'node:events';
import { connect } from 'node:net';
import fc from 'fast-check';
import t from 'tap';
import { duplicateKey } from '../plugins/http/json-keys.ts';
import { bellaAt, build, serve } from './helper.ts';
import { completeAnswer, startUpstream } from './upstream.ts';

/**
 * Bad input by number, as the project's reliability sheet lists it, on bare sockets where an HTTP client
 * would not let it through: the status, the envelope, no word of the input, and nobody asked.
 */

const ECHO = /CANARY/;
const json = (body: string, headers = '') =>
  `POST /ask/stream HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(body)}\r\n${headers}\r\n${body}`;
const typed = (type: string, body = '{"question":"CANARY"}') =>
  `POST /ask/stream HTTP/1.1\r\nHost: x\r\nContent-Type: ${type}\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`;
const post = (headers: string, body = '') =>
  `POST /ask/stream HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n${headers}\r\n${body}`;
const get = (path: string, headers = '') => `GET ${path} HTTP/1.1\r\nHost: x\r\n${headers}\r\n`;
const ASK = '/ask/stream?question=CANARY';
const STREAM = 'A'.repeat(22);

/** Number, name, bytes, status; 0 for a connection that is closed without a word. */
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
  [9, 'a space before the colon', 'GET /livez HTTP/1.1\r\nHost : x\r\n\r\n', 400],
  [10, 'a folded header', get('/livez', 'X: a\r\n b\r\n'), 400],
  [11, 'bare LF', 'GET /livez HTTP/1.1\nHost: x\n\n', 400],
  [12, 'bare CR', get('/livez', 'X: a\rb\r\n'), 400],
  [13, 'NUL in a header', get('/livez', 'X: a\0b\r\n'), 400],
  [14, 'no Host', 'GET /livez HTTP/1.1\r\n\r\n', 400],
  [15, 'two Hosts', 'GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n', 400],
  [17, 'a chunk size that is none', post('Transfer-Encoding: chunked\r\n', 'zz\r\n'), 400],
  [
    18,
    'a chunk extension of 20 KiB',
    post('Transfer-Encoding: chunked\r\n', `2;${'a'.repeat(20_480)}\r\n{}\r\n0\r\n\r\n`),
    400,
  ],
  [20, 'HTTP/1.2', 'GET /livez HTTP/1.2\r\nHost: x\r\n\r\n', 400],
  [20, 'HTTP/9.9', 'GET /livez HTTP/9.9\r\nHost: x\r\n\r\n', 400],
  [21, 'a preface of HTTP/2', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 400],
  [22, 'TLS', Buffer.from('16030102000100010003', 'hex'), 400],
  [24, 'Upgrade', get('/livez', 'Connection: Upgrade\r\nUpgrade: h2c\r\n'), 200],
  [25, 'an unknown Expect', get('/livez', 'Expect: CANARY\r\n'), 417],
  [26, 'headers of 17 KiB', get('/livez', `X: ${'a'.repeat(17_000)}\r\n`), 431],
  [27, 'a URL of 17 KiB', get(`${ASK}${'a'.repeat(17_000)}`), 431],
  [28, 'a URL of 9 KiB', get(`${ASK}${'a'.repeat(9_000)}`), 414],
  [29, '1,500 headers', get('/livez', 'a: b\r\n'.repeat(1_500)), 431],
  [30, 'a header __proto__', get('/livez', '__proto__: x\r\n'), 200],
  [31, 'TRACE', 'TRACE /livez HTTP/1.1\r\nHost: x\r\n\r\n', 405],
  [32, 'CONNECT', 'CONNECT a:1 HTTP/1.1\r\nHost: x\r\n\r\n', 0],
  [33, 'FOO', 'FOO /livez HTTP/1.1\r\nHost: x\r\n\r\n', 400],
  [33, 'get', 'get /livez HTTP/1.1\r\nHost: x\r\n\r\n', 400],
  [34, 'HEAD', `HEAD ${ASK} HTTP/1.1\r\nHost: x\r\n\r\n`, 405],
  [35, 'OPTIONS without CORS', 'OPTIONS /ask/stream HTTP/1.1\r\nHost: x\r\n\r\n', 404],
  [36, 'the wrong verb', 'PUT /ask/stream HTTP/1.1\r\nHost: x\r\n\r\n', 405],
  [37, 'a GET with a body', `${get(ASK, 'Content-Length: 2\r\n')}{}`, 400],
  [39, 'an id of NUL', get('/streams/%00'), 404],
  [40, 'an id of CRLF', get('/streams/%0d%0a'), 404],
  [41, 'an id of ../', get('/streams/..%2f'), 404],
  [42, 'bad percent encoding', get('/streams/%zz'), 400],
  [42, 'overlong UTF-8', get('/streams/%c0%af'), 400],
  [43, 'an id of 101 characters', get(`/streams/${'a'.repeat(101)}`), 414],
  [44, 'an id of another script', get('/streams/%D0%B0%E2%80%AE'), 404],
  [45, 'a field twice in the query', get(`${ASK}&question=b`), 400],
  [46, '__proto__ in the query', get(`${ASK}&__proto__[x]=1`), 400],
  [47, '2,000 parameters', get(`${ASK}&${'a=1&'.repeat(1_990)}`), 400],
  [48, 'access_token', get(`${ASK}&access_token=CANARY`), 400],
  [49, 'a body that is cut', json('{"question":"CANARY"'), 400],
  [49, 'an empty body', json(''), 400],
  [50, 'an array', json('["CANARY"]'), 400],
  [50, 'null', json('null'), 400],
  [51, '__proto__ in the body', json('{"question":"CANARY","__proto__":{"x":1}}'), 400],
  [51, '__proto__ in disguise', json('{"question":"CANARY","__\\u0070roto__":{"x":1}}'), 400],
  [51, 'constructor.prototype', json('{"question":"CANARY","constructor":{"prototype":{}}}'), 400],
  [52, 'a depth of 100,000', json(`{"question":"CANARY","x":${'['.repeat(100_000)}${']'.repeat(100_000)}}`), 400],
  [52, 'as many objects as a megabyte holds', json(`{"question":"CANARY","x":[${'{},'.repeat(340_000)}{}]}`), 400],
  [53, '1e999', json('{"question":"CANARY","temperature":1e999}'), 400],
  [54, 'a key twice', json('{"question":"CANARY","question":"b"}'), 400],
  [54, 'a key twice, in disguise', json('{"question":"CANARY","\\u0071uestion":"b"}'), 400],
  [55, 'a byte order mark', json('\ufeff{"question":"CANARY"}'), 200],
  [
    56,
    'invalid UTF-8',
    Buffer.concat([Buffer.from(post('Content-Length: 16\r\n', '{"question":"')), Buffer.from([0xff, 0x22, 0x7d])]),
    400,
  ],
  [57, 'half a surrogate pair', json('{"question":"\\ud800"}'), 200],
  [58, 'more than a mebibyte', json(`{"question":"${'x'.repeat(1_100_000)}"}`), 413],
  [59, 'api_base', json('{"question":"CANARY","api_base":"http://evil.example"}'), 400],
  [59, 'headers', json('{"question":"CANARY","headers":{"a":"b"}}'), 400],
  [60, 'the wrong type', json('{"question":1}'), 400],
  [
    61,
    'more messages than are taken',
    json(`{"messages":[${Array(1_001).fill('{"role":"user","content":"x"}').join()}]}`),
    400,
  ],
  [62, 'maxTokens of -1', json('{"question":"CANARY","maxTokens":-1}'), 400],
  [62, 'maxTokens of 1e9', json('{"question":"CANARY","maxTokens":1000000000}'), 400],
  [62, 'maxTokens of 1.5', json('{"question":"CANARY","maxTokens":1.5}'), 400],
  [64, 'a type behind a space', typed(' application/json', '{"question":1}'), 400],
  [65, 'a type with a tab', typed('application/json\ta'), 415],
  [65, 'a type with more behind it', typed('application/json, x'), 415],
  [66, 'text/plain', typed('text/plain'), 415],
  [67, 'XML', typed('application/xml'), 415],
  [67, 'multipart', typed('multipart/form-data; boundary=x'), 415],
  [68, 'UTF-16', typed('application/json; charset=utf-16'), 415],
  [69, 'a compressed body', json('{}', 'Content-Encoding: gzip\r\n'), 415],
  [70, 'Accept: application/json', get(ASK, 'Accept: application/json\r\n'), 406],
  [71, 'a Last-Event-ID that is none', get(ASK, 'Last-Event-ID: CANARY\r\n'), 400],
  [71, 'a negative place', get(ASK, `Last-Event-ID: ${STREAM}.-1\r\n`), 400],
  [71, 'a Last-Event-ID of 1 KiB', get(ASK, `Last-Event-ID: ${'a'.repeat(1_024)}\r\n`), 400],
  [71, 'a Last-Event-ID of latin1', Buffer.from(get(ASK, 'Last-Event-ID: caf\u00e9\r\n'), 'latin1'), 400],
  [72, 'two Last-Event-IDs', get(ASK, `Last-Event-ID: ${STREAM}.1\r\nLast-Event-ID: ${STREAM}.2\r\n`), 400],
  [88, 'two Authorizations', get(ASK, 'Authorization: Bearer a\r\nAuthorization: Bearer b\r\n'), 400],
  [92, 'an Origin that is not listed', get(ASK, 'Origin: https://evil.example\r\n'), 403],
  [92, 'the Origin null', get(ASK, 'Origin: null\r\n'), 403],
  [92, 'an Origin that ends alike', get(ASK, 'Origin: https://ok.example.evil.example\r\n'), 403],
  [
    93,
    'its preflight',
    'OPTIONS /ask/stream HTTP/1.1\r\nHost: x\r\nOrigin: https://evil.example\r\nAccess-Control-Request-Method: POST\r\n\r\n',
    403,
  ],
  [95, 'an image on another site', get(ASK, 'Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n'), 403],
  [95, 'a prefetch', get(ASK, 'Sec-Purpose: prefetch\r\n'), 204],
  ...['../../files', '%2e%2e', 'm:x?key=', '@evil', 'a%0d%0ab'].map((model): [number, string, string, number] => [
    96,
    `the model ${model}`,
    get(`${ASK}&model=${encodeURIComponent(model)}`),
    model === 'm:x?key=' || /[%.@]/.test(model) ? 400 : 404,
  ]),
  [99, 'a request id of 1 KiB', get('/livez', `X-Request-Id: ${'a'.repeat(1_024)}\r\n`), 200],
];

interface Answer {
  readonly status: number;
  readonly head: string;
  readonly body: string;
}

async function answerTo(url: string, bytes: string | Buffer, ms = 20_000): Promise<Answer> {
  const socket = connect(Number(new URL(url).port), '127.0.0.1').on('error', () => {});
  let got = '';
  const bodiless = bytes.toString().startsWith('HEAD');
  const over = once(socket, 'close');
  const late = setTimeout(() => socket.destroy(), ms);
  socket.on('data', (data) => {
    got += data.toString('latin1');
    const [head = '', body = ''] = got.split('\r\n\r\n');
    const length = /content-length: (\d+)/i.exec(head)?.[1];
    if (got.includes('\r\n\r\n') && (length === undefined || bodiless || body.length >= Number(length)))
      socket.destroy();
  });
  socket.write(bytes);
  await over;
  clearTimeout(late);
  const [head = '', body = ''] = got.split('\r\n\r\n');
  return { status: Number(/^HTTP\/1\.1 (\d+)/.exec(head)?.[1] ?? 0), head, body };
}

t.test('by number', async (t) => {
  const upstream = await startUpstream(t, completeAnswer('x'));
  const { url } = await serve(t, { env: bellaAt(upstream.url, { CORS_ORIGINS: 'https://ok.example' }) });
  for (const [number, name, bytes, status] of ROWS) {
    const answer = await answerTo(url, bytes);
    t.equal(answer.status, status, `${number} ${name}`);
    t.notMatch(answer.head + answer.body.replace(/^.*"type":"start".*$/m, ''), ECHO, `${number}: nothing is repeated`);
    t.notMatch(answer.body, /\n\s+at /, `${number}: no stack`);
    if (status < 400) continue;
    if (!bytes.toString().startsWith('HEAD')) {
      t.match(
        JSON.parse(answer.body),
        { error: { code: /^[a-z_]+$/, message: /\.$/, requestId: /./ } },
        `${number}: the envelope`,
      );
    }
    if (status === 403) t.notMatch(answer.head, /access-control-allow-origin/i, `${number}: no ACAO`);
  }
  const asking = ROWS.filter(([, , bytes, status]) => status === 200 && bytes.includes('/ask/stream')).length;
  t.ok(upstream.calls.length <= asking, 'nobody was asked but for what was good');
});

t.test('what takes too long: a body, headers, HTTP/0.9', async (t) => {
  const { url } = await serve(t);
  // A client that sends no more gets its answer from the deadlines of the service alone.
  const slow = async (bytes: string) => (await answerTo(url, bytes, 50_000)).status;
  const [body, headers, old] = await Promise.all([
    slow(post('Content-Length: 50\r\n', '{}')),
    slow('GET /livez HTTP/1.1\r\nHo'),
    slow('GET /livez\r\n'),
  ]);
  t.same([body, headers], [408, 408]);
  t.ok(old === 408 || old === 400);
});

t.test('what is good passes', async (t) => {
  const { url } = await serve(t, { env: { CORS_ORIGINS: 'https://ok.example', DEFAULT_MODEL: 'demo/demo' } });
  const long = encodeURIComponent('问'.repeat(900));
  t.equal((await answerTo(url, get(`/ask/stream?question=${long}`))).status, 200, '28: 900 Chinese characters');
  const pair = await answerTo(url, get('http://other.example/livez'));
  t.equal(pair.status, 200, '16: an absolute URL is routed by its path');
  const listed = await answerTo(url, get(ASK, 'Origin: https://ok.example\r\nSec-Fetch-Site: cross-site\r\n'));
  t.equal(listed.status, 200);
  t.match(listed.head, /access-control-allow-origin: https:\/\/ok\.example/i);
  t.equal((await answerTo(url, get(ASK, 'Origin: http://x\r\n'))).status, 200, 'the same origin');
  const behind = await answerTo(url, get(ASK, 'Origin: https://public.example\r\nSec-Fetch-Site: same-origin\r\n'));
  t.equal(behind.status, 200, 'the same origin behind a gateway that renames us');
  const two = get('/livez') + get('/readyz');
  t.match((await answerTo(url, two)).status, 200, '23: pipelined');
  const overridden = await answerTo(url, get('/livez', 'X-HTTP-Method-Override: DELETE\r\n'));
  t.equal(overridden.status, 200, '38: no method override');
});

t.test('a key that stands twice is found, and no other', async (t) => {
  const { anything, assert, property, string, json } = fc;
  assert(property(json(), (text) => duplicateKey(text) === undefined));
  assert(
    property(string(), anything(), string(), (key, value, other) => {
      const pair = (name: string) => `${JSON.stringify(name)} :${JSON.stringify(value) ?? 'null'}`;
      const twice = `{"a":[{${pair(key)}, ${pair(key)}}]}`;
      return (
        duplicateKey(twice) === key && (other === key || duplicateKey(`{${pair(key)},${pair(other)}}`) === undefined)
      );
    }),
  );
  t.equal(duplicateKey('{"a\\"":1,"a":"a\\\\","b":{"a":1}}'), undefined);
});

t.test('whatever is sent, it is never a fault of ours', async (t) => {
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
      // Without anything to ask: the point is what is refused, and how.
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
  t.pass();
});
