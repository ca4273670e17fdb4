import { syncBuiltinESMExports } from 'node:module';
import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { ProviderError } from '../../providers/errors.ts';
import { createOpenAICompatible } from '../../providers/openai-compatible.ts';
import { createPartBuffer } from '../../providers/wire/parts.ts';
import { chunk, DONE, type Script, STOP, sse, startUpstream, text } from '../upstream.ts';
import { type Collected, collect } from './collect.ts';
import { OPTIONS } from './options.ts';
import { random, SEED, splitRandomly } from './random.ts';

/** Tests the SSE parser of providers over real sockets, with the variants that real upstreams send. */

async function collectFrom(t: Test, script: Script): Promise<Collected> {
  const { url } = await startUpstream(t, script);
  const provider = createOpenAICompatible({ ...OPTIONS, baseUrl: `${url}/v1` });
  t.teardown(() => provider.close());
  const messages = [{ role: 'user', content: 'q' }] as const;
  return collect(provider.stream({ model: 'm', messages }, new AbortController().signal));
}

const playPieces =
  (...pieces: (string | Buffer)[]): Script =>
  async ({ response }) => {
    sse(response);
    for (const piece of pieces) {
      response.write(piece);
      await new Promise((resolve) => setImmediate(resolve));
    }
    response.end();
  };

const ANSWER = '你好 🚀 “quoted”\n\u2028line\ttab \\ end';
const EVENTS = [...ANSWER].map(text).join('') + STOP + DONE;

const FRAMINGS: Record<string, string> = {
  'LF, data with a space': EVENTS,
  'data without a space': EVENTS.replaceAll('data: ', 'data:'),
  CRLF: EVENTS.replaceAll('\n', '\r\n'),
  'CR alone': EVENTS.replaceAll('\n', '\r'),
  'a byte order mark': `\ufeff${EVENTS}`,
  'comments between': EVENTS.replaceAll('data: ', ': PROCESSING\n\n: keep-alive\ndata: '),
  'several blank lines': EVENTS.replaceAll('\n\n', '\n\n\n\n'),
  'ids, events and retry': EVENTS.replaceAll('data: ', 'id: 7\nevent: message\nretry: 10\ndata: '),
  'no [DONE]': EVENTS.replace(DONE, ''),
  'no last blank line': EVENTS.slice(0, -2),
  'no [DONE] and no last blank line': EVENTS.replace(DONE, '').slice(0, -2),
  'one event over several data lines': EVENTS.replaceAll('"choices"', '\ndata: "choices"'),
  'empty choices, null deltas, empty finish reasons': `data: {"choices":[]}\n\ndata: {}\n\ndata: {"choices":null,"error":null}\n\ndata: {"choices":[{"delta":null,"finish_reason":""}]}\n\n${EVENTS}`,
  'a usage chunk in place of a finish reason': EVENTS.replace(
    STOP,
    'data: {"choices":[],"usage":{"prompt_tokens":1}}\n\n',
  ).replace(DONE, ''),
  'malformed data after [DONE]': `${EVENTS}data: {"nonsense\n\n`,
};

t.test('an answer is decoded in every SSE framing, split at any byte', async (t) => {
  t.comment(`SEED=${SEED}`);
  const next = random(SEED);
  for (const [name, stream] of Object.entries(FRAMINGS)) {
    const bytes = Buffer.from(stream);
    for (const maxBytes of [bytes.length, 700, 7]) {
      const { text, finish, error } = await collectFrom(t, playPieces(...splitRandomly(bytes, next, maxBytes)));
      t.equal(error, undefined, `${name}: no error in pieces of at most ${maxBytes} bytes`);
      t.equal(text, ANSWER, `${name}: text`);
      t.equal(finish?.reason, 'stop', `${name}: finish reason`);
    }
  }
});

t.test('a surrogate pair split over two events is joined', async (t) => {
  const parts = createPartBuffer();
  parts.text('text', 'a\ud83d');
  t.same(parts.take(), [{ type: 'text', text: 'a' }], 'the first half is held back');
  parts.text('text', '\ude80b');
  t.same(parts.take(), [{ type: 'text', text: '🚀b' }]);
  parts.text('text', 'c\ud83d');
  t.same(parts.flush(), [{ type: 'text', text: 'c\ud83d' }], 'a half without its other half is flushed');
});

t.test('a fast upstream is read once per read interval', async (t) => {
  const { url } = await startUpstream(t, async ({ response }) => {
    sse(response);
    for (let i = 0; i < 50; i++) {
      response.write(text('x'));
      await sleep(2); // 20 tokens in one read interval.
    }
    response.end(STOP + DONE);
  });
  let intervals = 0;
  const readIntervals = {
    now: () => performance.now(),
    intervalMs: () => 40,
    afterInterval: (then: () => void) => {
      intervals += 1;
      setTimeout(then, 40);
    },
  };
  const provider = createOpenAICompatible({ ...OPTIONS, readIntervals, baseUrl: url });
  t.teardown(() => provider.close());
  const parts = [];
  for await (const part of provider.stream({ model: 'm', messages: [] }, new AbortController().signal))
    parts.push(part);
  t.ok(intervals > 1, `${intervals} read intervals`);
  t.ok(parts.length < 40, `${parts.length} parts for 50 tokens`);
});

t.test('a body that ends while no part is requested is read to its end', async (t) => {
  const { url } = await startUpstream(t, async ({ response }) => {
    sse(response).write(text('x') + STOP);
    await sleep(30); // The end arrives after the text was read, and before the next part is requested.
    response.end();
  });
  const provider = createOpenAICompatible({ ...OPTIONS, baseUrl: url });
  t.teardown(() => provider.close());
  const types: string[] = [];
  for await (const part of provider.stream({ model: 'm', messages: [] }, AbortSignal.timeout(30_000))) {
    types.push(part.type);
    await sleep(100); // A slow consumer.
  }
  t.same(types, ['text', 'finishing', 'finish']);
});

t.test('a malformed event ends the upstream call', async (t) => {
  const upstream = await startUpstream(t, ({ response }) => {
    sse(response).write('data: {]\n\n');
    const more = setInterval(() => response.write(text('more')), 1);
    response.on('close', () => clearInterval(more));
  });
  const provider = createOpenAICompatible({ ...OPTIONS, baseUrl: upstream.url });
  t.teardown(() => provider.close());
  const { error } = await collect(provider.stream({ model: 'm', messages: [] }, new AbortController().signal));
  t.equal((error as ProviderError).reason, 'bad_json');
  await upstream.calls[0]?.closed;
});

const SERVER_ERROR = { message: 'SECRET engine detail', type: 'server_error', code: 500 };
const IN_BAND: Record<string, string> = {
  'an error chunk': `data: ${JSON.stringify({ error: SERVER_ERROR })}\n\n${DONE}`,
  'an error event': `event: error\ndata: ${JSON.stringify({ error: SERVER_ERROR })}\n\n`,
  'an error inside a normal chunk': `${chunk({ content: '' }, 'stop', { error: SERVER_ERROR })}${DONE}`,
  'an SSE field named error': `error: ${JSON.stringify(SERVER_ERROR)}\n\n${DONE}`,
  'a bare JSON document at the end': JSON.stringify({ error: SERVER_ERROR }, null, 2),
  'a finish reason': chunk({}, 'error') + DONE,
  'an error after the finish reason': `${STOP}data: ${JSON.stringify({ error: SERVER_ERROR })}\n\n`,
  'an error object of its own': `data: ${JSON.stringify({ object: 'error', ...SERVER_ERROR })}\n\n${DONE}`,
};

t.test('an in-band error in any form is upstream_error', async (t) => {
  for (const [name, stream] of Object.entries(IN_BAND)) {
    const { text: received, finish, error } = await collectFrom(t, playPieces(text('partial'), stream));
    t.equal((error as ProviderError)?.code, 'upstream_error', name);
    t.equal((error as ProviderError)?.retryable, true, `${name}: retryable`);
    t.notMatch(String(error), /SECRET/, `${name}: the provider's message is not exposed`);
    t.equal(received, 'partial', `${name}: text before the error is kept`);
    t.equal(finish, undefined, `${name}: no finish part`);
  }
});

t.test('an incomplete stream is upstream_truncated', async (t) => {
  const half = Buffer.from(text('世')).subarray(0, -16);
  const cases: Record<string, Script> = {
    'no finish reason and no [DONE]': playPieces(text('partial')),
    'half an event': playPieces(text('partial'), text('lost').slice(0, 30)),
    'half a character': playPieces(text('partial'), half),
    'a reset': async ({ response }) => {
      sse(response).write(text('partial'));
      await sleep(20); // A reset discards text that was not read yet.
      response.socket?.resetAndDestroy();
    },
    'a close directly after the last byte': ({ response }) => {
      sse(response).write(text('partial'), () => response.destroy());
    },
    'a close inside an event, in a body without a length': ({ response }) => {
      response.socket?.end(
        `HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n${text('partial')}data: {"cho`,
      );
    },
  };
  for (const [name, script] of Object.entries(cases)) {
    const { text, error } = await collectFrom(t, script);
    t.equal((error as ProviderError)?.code, 'upstream_truncated', name);
    t.equal(text, 'partial', `${name}: received text is kept`);
  }
});

t.test('a response that is no valid event stream is upstream_protocol', async (t) => {
  const head =
    (status: number, headers: Record<string, string>): Script =>
    ({ response }) => {
      response.writeHead(status, headers).end(EVENTS);
    };
  const cases: Record<string, [Script, string]> = {
    'malformed JSON': [playPieces(text('x'), 'data: {"a":\n\n', STOP), 'bad_json'],
    'JSON that is not an object': [playPieces('data: 17\n\n', STOP), 'bad_chunk'],
    'another content type': [head(200, { 'content-type': 'text/html' }), 'content_type'],
    'a compressed body': [
      head(200, { 'content-type': 'text/event-stream', 'content-encoding': 'gzip' }),
      'content_encoding',
    ],
    'a redirect': [head(302, { location: '/elsewhere' }), 'redirect'],
    'no content': [head(204, {}), 'status'],
  };
  for (const [name, [script, reason]] of Object.entries(cases)) {
    const { error } = await collectFrom(t, script);
    t.equal((error as ProviderError)?.code, 'upstream_protocol', name);
    t.equal((error as ProviderError)?.reason, reason, `${name}: reason`);
  }
});

t.test('connection failures are upstream_unreachable, late headers are upstream_timeout', async (t) => {
  const createProvider = (baseUrl: string) =>
    createOpenAICompatible({ ...OPTIONS, baseUrl, connectTimeoutMs: 2_000, headersTimeoutMs: 1_000 });
  const failureOf = async (baseUrl: string) => {
    const provider = createProvider(baseUrl);
    t.teardown(() => provider.close());
    const { error } = await collect(provider.stream({ model: 'm', messages: [] }, new AbortController().signal));
    t.ok(error instanceof ProviderError);
    return error as ProviderError;
  };
  t.match(await failureOf('http://127.0.0.1:1'), { code: 'upstream_unreachable', reason: 'connect', retryable: true });
  t.match(await failureOf('http://sluice.invalid'), { code: 'upstream_unreachable', reason: 'dns' });
  const { url } = await startUpstream(t, () => {});
  t.match(await failureOf(url), { code: 'upstream_timeout', stage: 'headers', retryable: true });
  const dropping = await startUpstream(t, ({ response }) => void response.destroy());
  t.match(await failureOf(dropping.url), { code: 'upstream_unreachable', reason: 'connect' });
});

t.test('requests have the configured fields, rotate the keys and share one connection', async (t) => {
  const upstream = await startUpstream(t, playPieces(text('x'), STOP, DONE));
  const provider = createOpenAICompatible({
    ...OPTIONS,
    baseUrl: `${upstream.url}/v1/`,
    apiKeys: ['one', 'two'],
    connections: 1,
  });
  t.teardown(() => provider.close());
  for (let i = 0; i < 4; i++) {
    const request = {
      model: 'm',
      messages: [{ role: 'user', content: '你' }],
      temperature: 0.5,
      maxTokens: 9,
      stop: ['x'],
    } as const;
    t.equal((await collect(provider.stream(request, new AbortController().signal))).text, 'x');
    await upstream.calls[i]?.closed;
  }
  t.equal(upstream.sockets(), 1, 'four answers over one connection');
  const [first, second] = upstream.calls;
  t.equal(first?.request.url, '/v1/chat/completions');
  t.same(
    new Set([first, second].map((call) => call?.request.headers.authorization)),
    new Set(['Bearer one', 'Bearer two']),
  );
  t.same(JSON.parse(first?.body ?? ''), {
    model: 'm',
    messages: [{ role: 'user', content: '你' }],
    stream: true,
    stream_options: { include_usage: true },
    temperature: 0.5,
    max_tokens: 9,
    stop: ['x'],
  });
});

t.test('bytes after [DONE] do not prevent reuse of the connection', async (t) => {
  const upstream = await startUpstream(t, async ({ response }) => {
    sse(response).write(text('x') + STOP + DONE);
    await sleep(20); // The rest arrives after the answer was delivered.
    response.end(`: ${'bye '.repeat(50_000)}\n\n`);
  });
  const provider = createOpenAICompatible({ ...OPTIONS, baseUrl: upstream.url, connections: 1 });
  t.teardown(() => provider.close());
  for (let i = 0; i < 3; i++) {
    const { text, error } = await collect(provider.stream({ model: 'm', messages: [] }, new AbortController().signal));
    t.equal(error, undefined);
    t.equal(text, 'x');
  }
  t.equal(upstream.sockets(), 1, 'three answers over one connection');
});

t.test('a body that stays open behind [DONE] is closed', async (t) => {
  const upstream = await startUpstream(t, ({ response }) => {
    sse(response).write(text('x') + STOP + DONE);
  });
  const provider = createOpenAICompatible({ ...OPTIONS, baseUrl: upstream.url });
  t.teardown(() => provider.close());
  const parts = provider.stream({ model: 'm', messages: [] }, new AbortController().signal);
  t.match(await parts.next(), { value: { type: 'text' } });
  t.match(await parts.next(), { value: { type: 'finish' } });
  await parts.return(); // As the LLM client does.
  const call = await upstream.call(1);
  await call.closed;
  t.equal(call.finished, false, 'the provider has closed the connection');
});

t.test('a host name that resolves to a metadata address is not connected to (DNS rebinding)', async (t) => {
  const dns = await import('node:dns');
  const { lookup } = dns.default;
  t.teardown(() => {
    dns.default.lookup = lookup;
    syncBuiltinESMExports();
  });
  dns.default.lookup = ((_: string, __: object, done: (error: null, found: object[]) => void) =>
    done(null, [{ address: '169.254.169.254', family: 4 }])) as unknown as typeof lookup;
  syncBuiltinESMExports();
  const provider = createOpenAICompatible({ ...OPTIONS, baseUrl: 'http://rebinding.example' });
  t.teardown(() => provider.close());
  const { error } = await collect(provider.stream({ model: 'm', messages: [] }, new AbortController().signal));
  t.match(error, { code: 'upstream_unreachable', reason: 'forbidden_address' });
});
