import type { ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import t from 'tap';
import { errorClass } from '../../providers/wire/error-class.ts';
import { metricValue } from '../metric-value.ts';
import { ask, checkAll, play, type UpstreamCase } from './play.ts';
import { event, openai } from './wire.ts';

/** Errors by what they concern: the account's money, the key, the rate, a busy server, the request, the provider. */

const { text, finish, done } = openai;
const refuse = (status: number, error: object) => (response: ServerResponse) => {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify({ error }));
};
const ok = (response: ServerResponse) =>
  void response.writeHead(200, { 'content-type': 'text/event-stream' }).end(text('ok') + finish() + done);
const NO_MONEY = { type: 'exceeded_current_quota_error', message: 'Please recharge your account.' };

const CASES: UpstreamCase[] = [
  {
    name: 'a 429 that only money fixes (kimi-code#1857)',
    reply: refuse(429, NO_MONEY),
    expected: { error: 'upstream_rate_limited', retryable: false },
  },
  {
    name: 'the same as a code of Z.ai',
    provider: 'zai',
    reply: refuse(429, { code: '1113', message: '余额不足' }),
    expected: { error: 'upstream_rate_limited', retryable: false },
  },
  {
    name: 'the same as a number',
    provider: 'zai',
    reply: refuse(429, { code: 1113, message: 'x' }),
    expected: { error: 'upstream_rate_limited', retryable: false },
  },
  {
    name: 'the same in an event stream (new-api#142)',
    reply: (response) =>
      void response
        .writeHead(429, { 'content-type': 'text/event-stream' })
        .end('event:error\ndata:{"code":"insufficient_quota"}\n\n'),
    expected: { error: 'upstream_rate_limited', retryable: false },
  },
  {
    name: 'an ordinary limit is asked again',
    reply: refuse(429, { type: 'rate_limit_reached_error', message: 'max concurrency: 1' }),
    expected: { error: 'upstream_rate_limited', retryable: true, asked: 2 },
  },
  {
    name: 'a second key answers if the first has no money',
    apiKeys: ['poor', 'rich'],
    reply: (response, _, authorization) =>
      authorization === 'Bearer poor' ? refuse(429, NO_MONEY)(response) : ok(response),
    expected: { text: 'ok', finish: 'stop', asked: 2 },
  },
  {
    name: 'a second key answers if the first is refused',
    apiKeys: ['bad', 'good'],
    reply: (response, _, authorization) =>
      authorization === 'Bearer bad' ? refuse(401, { message: 'no' })(response) : ok(response),
    expected: { text: 'ok', finish: 'stop', asked: 2 },
  },
  {
    name: 'a second key answers if the first has no money, said in a stream',
    apiKeys: ['poor', 'rich'],
    reply: (response, _, authorization) =>
      authorization === 'Bearer poor'
        ? response.writeHead(200, { 'content-type': 'text/event-stream' }).end(event({ error: NO_MONEY }))
        : ok(response),
    expected: { text: 'ok', finish: 'stop', asked: 2 },
  },
  {
    name: 'a throttling event in a stream is asked again',
    provider: 'dashscope',
    body: ['event:error\ndata:{"code":"Throttling.AllocationQuota","message":"m"}\n\n'],
    expected: { error: 'upstream_error', retryable: true, asked: 2 },
  },
  {
    name: 'a refusal without an error field is not asked again',
    body: [event({ code: 'InvalidParameter', message: 'bad' })],
    expected: { error: 'upstream_error', retryable: false },
  },
];

t.test('errors are blamed on what they concern', async (t) => checkAll(t, CASES));

t.test('codes and types have a class in every notation; free text has none', async (t) => {
  const words: [string | number, string | undefined][] = [
    ['insufficient_quota', 'billing'],
    ['Arrearage', 'billing'],
    ['invalid_api_key', 'credentials'],
    ['API_KEY_INVALID', 'credentials'],
    ['RateLimitError', 'rate_limit'],
    ['RESOURCE_EXHAUSTED', 'rate_limit'],
    ['Throttling.RateQuota', 'rate_limit'],
    [429, 'rate_limit'],
    ['overloaded_error', 'overload'],
    ['503', 'overload'],
    ['BadRequestError', 'request'],
    ['invalid_request', 'request'],
    ['ValidationException', 'request'],
    ['ThrottlingException', 'rate_limit'],
    ['ServiceUnavailableException', 'overload'],
    ['INVALID_ARGUMENT', 'request'],
    ['400', 'request'],
    ['InternalServerError', 'provider'],
    [500, 'provider'],
    [408, 'provider'],
    ['whatever', undefined],
  ];
  for (const [word, expected] of words) {
    t.equal(errorClass({ code: word }), expected, `code ${word}`);
    t.equal(
      errorClass({ type: String(word) }),
      typeof word === 'number' || /^\d+$/.test(word) ? errorClass({ type: String(word) }) : expected,
      `type ${word}`,
    );
  }
  t.equal(
    errorClass({ type: 'invalid_request_error', code: 'invalid_api_key' }),
    'credentials',
    'the more specific word counts',
  );
  for (const message of [
    "Invalid value: 'credit balance'",
    'model insufficient_quota not found',
    '请求 已达每月额度上限 无效',
    'field: API key not valid',
  ]) {
    t.equal(errorClass({ type: 'invalid_request_error', message }), 'request', `words of a client: ${message}`);
  }
  t.equal(
    errorClass({
      message: 'Your credit balance is too low to access the Anthropic API.',
      type: 'invalid_request_error',
    }),
    'billing',
    'the fixed message of Anthropic',
  );
  t.equal(errorClass({ message: '已达每月额度上限' }), 'billing', 'the fixed message of Bella');
});

t.test('words of a client in a refusal lay no key aside', async (t) => {
  let n = 0;
  const { url } = await play(t, {
    reply: (response) =>
      ++n === 1
        ? refuse(400, { type: 'invalid_request_error', message: "Invalid value: 'credit balance'." })(response)
        : ok(response),
  });
  t.equal((await ask(url)).error, 'upstream_rejected', 'the refused question');
  t.equal((await ask(url)).text, 'ok', 'the next question is asked with the same key');
});

t.test(
  'a 429 rests the key for its model only, and a fallback to another model of the provider is asked',
  async (t) => {
    const route = 'models: [{ name: both, targets: [{ provider: p, model: m }, { provider: p, model: n }] }]\n';
    const limited = (response: ServerResponse) => {
      response
        .writeHead(429, { 'content-type': 'application/json', 'retry-after': '20' })
        .end('{"error":{"type":"rate_limit_error"}}');
    };
    let calls = 0;
    const { url } = await play(t, { reply: (response) => (++calls === 1 ? limited(response) : ok(response)) }, route);
    t.match(await ask(url, 'both'), { text: 'ok', finish: 'stop' }, 'the other model answers');
    t.equal(calls, 2, 'each model is asked once');
    t.match(await ask(url, 'p/m'), { error: 'upstream_rate_limited' }, 'the limited model rests');
    t.equal(calls, 2, 'without a call');
    t.equal((await ask(url, 'p/n')).text, 'ok', 'the other model does not');
  },
);

t.test('a connection that died while it was idle costs no retry', async (t) => {
  const answer = text('ok') + finish() + done;
  const head = `HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: ${Buffer.byteLength(answer)}\r\n\r\n`;
  for (const end of ['destroy', 'end'] as const) {
    const die = (socket: Socket) => (end === 'end' ? socket.end() : socket.resetAndDestroy());
    const { url } = await play(t, { socket: (socket, n) => (n === 1 ? socket.write(head + answer) : die(socket)) });
    // Every second question meets a dead connection: more than the retry budget allows.
    for (let i = 0; i < 30; i++) t.match(await ask(url), { text: 'ok', error: undefined }, `${end}, question ${i}`);
  }
});

t.test('a first connection that dies inside its headers says something about the server', async (t) => {
  const { app, url } = await play(t, { socket: (socket) => socket.end('HTTP/1.1 200 OK\r\ncontent-') });
  t.match(await ask(url), { error: 'upstream_unreachable', retryable: true });
  t.equal(await metricValue(app, 'sluice_upstream_attempts_total', { provider: 'p', outcome: 'connect' }), 2);
});
