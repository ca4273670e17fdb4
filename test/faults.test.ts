import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import t, { type Test } from 'tap';
import { systemClock } from '../plugins/clock.ts';
import { captureLog, serve, until, writeConfig } from './helper.ts';
import { metricValue } from './metric-value.ts';
import { CHUNKED, chunked, head, LAST_CHUNK, type RawScript, rawUpstream } from './raw-upstream.ts';
import { open, readAll } from './sse-client.ts';
import { chunk, DONE, STOP, text } from './upstream.ts';

/**
 * Faults of upstreams and clients, on real sockets. For each fault the client gets the right error, the right counter
 * is incremented, no resource is left, and no secret is leaked. Only the deadline that a row is about is short, because
 * on a busy machine any other short one could pass first; `deadlines.test.ts` tests them with a manual clock.
 */

const SECRETS = /CANARY/;
const deadlinesWith = (short: string) => `deadlines: { connectMs: 20000, firstTokenMs: 60000, ${short} }`;
const DEADLINES = deadlinesWith('headersMs: 60000, idleMs: 60000');
const OK = chunked(text('complete') + STOP + DONE);

interface Row {
  readonly name: string;
  /** Behaviour of the upstream, or a URL at which there is none. */
  readonly upstream: RawScript | string;
  readonly type?: string;
  /** Settings of the configuration file. */
  readonly settings?: string;
  /** Deadlines instead of `DEADLINES`. */
  readonly deadlines?: string;
  /** Fields of the last event. */
  readonly last: object;
  /** Text of the deltas before the last event. */
  readonly text?: string;
  /** Outcome of the failed attempts in the metrics. */
  readonly outcome: string;
  /** Number of calls of the upstream; 1 by default. */
  readonly calls?: number;
}

/** Sends a delta and leaves the response open. */
const partial = (socket: Socket) => socket.write(CHUNKED + chunked(text('partial')));
const respondWith =
  (status: number, headers = {}): RawScript =>
  (socket) => {
    const body = '{"error":{"message":"CANARY-upstream"}}';
    socket.write(
      head(status, { 'content-type': 'application/json', 'content-length': String(body.length), ...headers }) + body,
    );
  };
/** Runs `first` for the first request, and answers later requests completely. */
const onlyFirst =
  (first: RawScript): RawScript =>
  (socket, n) => {
    if (n === 1) first(socket, n);
    else socket.write(Buffer.concat([Buffer.from(CHUNKED), OK, Buffer.from(LAST_CHUNK)]));
  };
const error = (code: string, fields = {}) => ({ type: 'error', code, ...fields });
const complete = { type: 'end', answer: 'complete' };

const ROWS: Row[] = [
  {
    name: 'connection refused',
    upstream: 'http://127.0.0.1:1',
    last: error('upstream_unreachable', { retryable: true }),
    outcome: 'connect',
    calls: 2,
  },
  {
    name: 'unknown host',
    upstream: 'http://sluice.invalid',
    last: error('upstream_unreachable'),
    outcome: 'dns',
    calls: 2,
  },
  {
    name: 'stall before headers',
    upstream: () => {},
    deadlines: deadlinesWith('headersMs: 1000, idleMs: 60000'),
    last: error('upstream_timeout', { stage: 'headers' }),
    outcome: 'headers_timeout',
  },
  {
    name: 'stall before the first token, with pings',
    upstream: (socket) => {
      socket.write(CHUNKED + chunked(chunk({ role: 'assistant', content: '' })));
      const pings = setInterval(() => socket.write(chunked(': ping\n\n')), 50);
      socket.on('close', () => clearInterval(pings));
    },
    deadlines: 'deadlines: { connectMs: 20000, headersMs: 60000, firstTokenMs: 1000, idleMs: 60000 }',
    last: error('upstream_timeout', { stage: 'first_token' }),
    outcome: 'first_token_timeout',
  },
  {
    name: 'stall mid-stream',
    upstream: partial,
    deadlines: deadlinesWith('headersMs: 60000, idleMs: 1000'),
    last: error('upstream_timeout', { stage: 'idle' }),
    text: 'partial',
    outcome: 'idle_timeout',
  },
  {
    name: 'stall mid-stream, with single bytes of an unfinished event',
    upstream: (socket) => {
      partial(socket);
      const bytes = setInterval(() => socket.write(chunked('d')), 50);
      socket.on('close', () => clearInterval(bytes));
    },
    deadlines: deadlinesWith('headersMs: 60000, idleMs: 1000'),
    last: error('upstream_timeout', { stage: 'idle' }),
    text: 'partial',
    outcome: 'idle_timeout',
  },
  {
    name: 'reset mid-stream',
    upstream: (socket) => {
      partial(socket);
      setTimeout(() => socket.resetAndDestroy(), 30);
    },
    last: error('upstream_truncated', { retryable: true }),
    text: 'partial',
    outcome: 'reset',
  },
  {
    name: 'the body ends within a character',
    upstream: (socket) => {
      const half = Buffer.from(text('世界')).subarray(0, -16);
      socket.end(
        Buffer.concat([Buffer.from(CHUNKED), chunked(text('partial')), chunked(half), Buffer.from(LAST_CHUNK)]),
      );
    },
    last: error('upstream_truncated'),
    text: 'partial',
    outcome: 'truncated',
  },
  {
    name: 'the connection ends within an event',
    upstream: (socket) => void socket.end(`${head()}${text('partial')}data: {"choices":[{"delta":{"content":"lost`),
    last: error('upstream_truncated'),
    text: 'partial',
    outcome: 'truncated',
  },
  {
    name: 'malformed JSON',
    upstream: (socket) => void socket.write(CHUNKED + chunked(`${text('partial')}data: {"a":\n\n`)),
    last: error('upstream_protocol'),
    text: 'partial',
    outcome: 'bad_json',
  },
  {
    name: 'a line of twenty megabytes',
    upstream: (socket) => {
      socket.write(CHUNKED + chunked(text('partial')) + chunked('data: '));
      for (let i = 0; i < 320; i++) socket.write(chunked('x'.repeat(65_536)));
    },
    last: error('upstream_protocol'),
    text: 'partial',
    outcome: 'event_too_large',
  },
  {
    name: 'an answer longer than maxChars',
    settings: 'streams: { maxChars: 2048 }',
    upstream: (socket) => {
      socket.write(CHUNKED);
      const more = setInterval(() => socket.write(chunked(text('more '.repeat(50)))), 1);
      socket.on('close', () => clearInterval(more));
    },
    last: error('limit_exceeded', { retryable: false }),
    outcome: 'aborted',
  },
  {
    name: '429 with Retry-After: 0',
    upstream: onlyFirst(respondWith(429, { 'retry-after': '0' })),
    last: complete,
    outcome: 'http_429',
    calls: 2,
  },
  {
    name: '429 with Retry-After: 1',
    upstream: onlyFirst(respondWith(429, { 'retry-after': '1' })),
    last: complete,
    outcome: 'http_429',
    calls: 2,
  },
  {
    name: '429 with a Retry-After in the past',
    upstream: onlyFirst(respondWith(429, { 'retry-after': 'Mon, 01 Jan 2024 00:00:00 GMT' })),
    last: complete,
    outcome: 'http_429',
    calls: 2,
  },
  {
    name: '429 with an invalid Retry-After',
    upstream: onlyFirst(respondWith(429, { 'retry-after': 'soon' })),
    last: complete,
    outcome: 'http_429',
    calls: 2,
  },
  {
    name: '429 with Retry-After: 3600',
    upstream: respondWith(429, { 'retry-after': '3600' }),
    last: error('upstream_rate_limited', { retryAfter: 3600 }),
    outcome: 'http_429',
  },
  ...[500, 502, 503, 529].flatMap((status): Row[] => [
    {
      name: `${status} once`,
      upstream: onlyFirst(respondWith(status)),
      last: complete,
      outcome: `http_${status}`,
      calls: 2,
    },
    {
      name: `${status} for every call`,
      upstream: respondWith(status),
      last: error('upstream_failed', { retryable: true }),
      outcome: `http_${status}`,
      calls: 2,
    },
  ]),
  {
    name: '503 whose body is never sent',
    upstream: (socket) => void socket.write(head(503, { 'content-length': '100' })),
    last: error('upstream_failed', { retryable: true }),
    outcome: 'http_503',
    calls: 2,
  },
  ...[400, 404].map(
    (status): Row => ({
      name: `${status}`,
      upstream: respondWith(status),
      last: error('upstream_rejected', { retryable: false }),
      outcome: `http_${status}`,
    }),
  ),
  ...[401, 403].map(
    (status): Row => ({
      name: `${status}`,
      upstream: respondWith(status),
      last: error('upstream_rejected', { retryable: false }),
      outcome: 'credentials',
    }),
  ),
  {
    name: 'an error in the stream',
    upstream: (socket) =>
      void socket.write(
        CHUNKED +
          chunked(`${text('partial')}data: {"error":{"message":"CANARY-upstream"}}\n\n${text('ignored')}${DONE}`),
      ),
    last: error('upstream_error'),
    text: 'partial',
    outcome: 'in_band',
  },
  {
    name: 'an error in a stream of Anthropic',
    type: 'anthropic',
    upstream: (socket) => {
      const delta = { type: 'content_block_delta', index: 0, delta: { type: 'text_delta', text: 'partial' } };
      const failure = { type: 'error', error: { type: 'overloaded_error', message: 'CANARY-upstream' } };
      socket.write(
        CHUNKED + chunked(`data: ${JSON.stringify(delta)}\n\nevent: error\ndata: ${JSON.stringify(failure)}\n\n`),
      );
    },
    last: error('upstream_error', { retryable: true }),
    text: 'partial',
    outcome: 'overloaded',
  },
  {
    name: 'a stream of Ollama without its last line',
    type: 'ollama',
    upstream: (socket) =>
      void socket.end(`${head(200, { 'content-type': 'application/x-ndjson' })}{"message":{"content":"partial"}}\n`),
    last: error('upstream_truncated'),
    text: 'partial',
    outcome: 'truncated',
  },
  {
    name: 'a compressed body',
    upstream: (socket) => void socket.write(head(200, { 'content-encoding': 'gzip' })),
    last: error('upstream_protocol'),
    outcome: 'content_encoding',
  },
  {
    name: 'an unexpected content type',
    upstream: (socket) => void socket.write(head(200, { 'content-type': 'text/html' })),
    last: error('upstream_protocol'),
    outcome: 'content_type',
  },
  {
    name: 'a redirect',
    upstream: (socket) => void socket.write(head(302, { location: '/CANARY', 'content-length': '0' })),
    last: error('upstream_protocol'),
    outcome: 'redirect',
  },
];

/** The system clock, with the number of pending timers. */
function countingClock() {
  let pending = 0;
  return {
    now: systemClock.now,
    after(ms: number, fn: () => void) {
      let isPending = true;
      pending += 1;
      const done = () => {
        if (isPending) pending -= 1;
        isPending = false;
      };
      const cancel = systemClock.after(ms, () => {
        done();
        fn();
      });
      return () => {
        done();
        cancel();
      };
    },
    get pending() {
      return pending;
    },
  };
}

/** Starts a service whose only model is that of an upstream at `baseUrl`. Its key is a canary. */
async function serveProvider(
  t: Test,
  { type = 'openai-compatible', settings = '' }: Partial<Row>,
  baseUrl: string,
  deadlines = DEADLINES,
  extraEnv = {},
) {
  const clock = countingClock();
  const { logTo, log } = captureLog();
  const yaml = `${deadlines}\n${settings}\nproviders: { it: { type: ${type}, baseUrl: "${baseUrl}", apiKeys: [CANARY-key], models: [m] } }`;
  const env = { CONFIG_FILE: writeConfig(t, yaml), STREAM_GRACE_MS: '0', ...extraEnv };
  const { app, url } = await serve(t, { env, clock, logTo });
  return { app, url, clock, log };
}

t.test('faults of upstreams', async (t) => {
  // Most of them wait for a deadline.
  t.jobs = 4;
  for (const row of ROWS) {
    const result = row.last === complete ? 'the complete answer' : (row.last as { code: string }).code;
    t.test(`${row.name}: the client gets ${result}`, async (t) => {
      const upstream = typeof row.upstream === 'string' ? undefined : await rawUpstream(t, row.upstream);
      const { app, url, clock, log } = await serveProvider(
        t,
        row,
        upstream?.url ?? (row.upstream as string),
        row.deadlines,
      );
      const timers = clock.pending;
      const { calls = 1, outcome } = row;

      const ask = `${url}/ask/stream?question=CANARY-question`;
      const { events } = await readAll(ask);

      const last = events.at(-1);
      t.match(last?.json, row.last, 'fields of the last event');
      t.equal(
        events.filter(({ json }) => ['end', 'error'].includes(json.type)).length,
        1,
        'exactly one terminal event',
      );
      const received = events.map(({ json }) => (json.type === 'delta' ? json.content : '')).join('');
      if (row.text !== undefined) t.equal(received, row.text, 'text before the fault is kept');
      t.notMatch(received, /\ufffd/, 'no half character is sent');
      const positions = events.map(({ id }) =>
        id.endsWith('.end') ? Number.POSITIVE_INFINITY : Number(id.split('.')[1]),
      );
      t.same(
        [...positions].sort((a, b) => a - b),
        positions,
        'event ids ascend',
      );
      t.equal(new Set(positions).size, positions.length, 'event ids are unique');

      if (upstream) t.equal(upstream.requests.length, calls, 'number of upstream calls');
      const failures = row.last === complete ? calls - 1 : calls;
      t.equal(
        await metricValue(app, 'sluice_upstream_attempts_total', { outcome }),
        failures,
        `sluice_upstream_attempts_total with outcome ${outcome}`,
      );
      t.equal(await metricValue(app, 'sluice_retries_total'), calls - 1, 'sluice_retries_total');

      await until(() => app.streams.active === 0 && app.responses.open === 0, 'no generation and no response is open');
      if (upstream && row.last !== complete) {
        await until(
          () => [...upstream.open].every((socket) => socket.destroyed || isReusable(row)),
          'the connections to the upstream are closed',
        );
      }
      await until(() => clock.pending <= timers + 1, 'only the timer that expires the stream is pending');

      const again = await fetch(ask, { headers: { 'last-event-id': last?.id ?? '' } });
      t.equal(again.status, 204, 'a reconnect after the last event gets 204');
      if (upstream) t.equal(upstream.requests.length, calls, 'the reconnect does not call the upstream');
      t.notMatch(JSON.stringify(events), SECRETS, 'no secret in the events');
      t.notMatch(log(), SECRETS, 'no secret in the log');
    });
  }
});

const noListenBacklog = process.platform !== 'linux' && 'the listen queue works differently on this platform';

/** Returns true if the service reads the response completely and may use the connection again. */
function isReusable({ outcome }: Row): boolean {
  return /^http_|credentials|redirect/.test(outcome);
}

t.test('connect timeout: the client gets upstream_timeout', { skip: noListenBacklog }, async (t) => {
  // A stopped process accepts no connection. When its listen queue is full, further connects get no reply.
  const program = "const s=require('net').createServer().listen(0,'127.0.0.1',1,()=>console.log(s.address().port))";
  const child = spawn(process.execPath, ['-e', program], { stdio: ['ignore', 'pipe', 'inherit'] });
  const [line] = (await once(child.stdout, 'data')) as [Buffer];
  const port = Number(line);
  child.kill('SIGSTOP');
  const fillers = Array.from({ length: 8 }, () => connect(port, '127.0.0.1').on('error', () => {}));
  t.teardown(() => {
    for (const filler of fillers) filler.destroy();
    child.kill('SIGKILL');
  });
  await until(() => fillers.filter(({ connecting }) => !connecting).length >= 2, 'the queue is full');
  const { app, url } = await serveProvider(t, {}, `http://127.0.0.1:${port}`, 'deadlines: { connectMs: 1000 }');
  const { events } = await readAll(`${url}/ask/stream?question=q`);
  const timeout = { code: 'upstream_timeout', stage: 'connect', retryable: true };
  t.match(events.at(-1)?.json, timeout, 'fields of the last event');
  const attempts = await metricValue(app, 'sluice_upstream_attempts_total', { outcome: 'connect_timeout' });
  t.equal(attempts, 2, 'both attempts time out');
});

t.test('a client that resets or half-closes its connection aborts the upstream call', async (t) => {
  const disconnects: Record<string, (socket: Socket) => unknown> = {
    reset: (socket) => socket.resetAndDestroy(),
    'half-close': (socket) => socket.end(),
  };
  for (const [name, disconnect] of Object.entries(disconnects)) {
    const upstream = await rawUpstream(t, partial);
    const { app, url } = await serveProvider(t, {}, upstream.url);
    const client = connect(Number(new URL(url).port), '127.0.0.1').on('error', () => {});
    client.write('GET /ask/stream?question=q HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n');
    await until(() => upstream.requests.length === 1, 'the upstream is called');
    await once(client, 'data');
    disconnect(client);
    await until(
      () => upstream.open.size === 0 && app.streams.active === 0,
      `${name}: the call and the generation have ended`,
    );
    t.equal(await metricValue(app, 'sluice_responses_aborted_total'), 1, `${name}: sluice_responses_aborted_total`);
    client.destroy();
  }
});

t.test('a client that stops reading is disconnected, can resume, and does not stop its generation', async (t) => {
  const upstream = await rawUpstream(t, (socket) => {
    socket.write(CHUNKED);
    const writeMore = () => {
      while (!socket.destroyed && socket.write(chunked(text('x'.repeat(32_768)))));
    };
    socket.on('drain', writeMore);
    writeMore();
  });
  const { app, url } = await serveProvider(
    t,
    { settings: 'streams: { stallMs: 500, graceMs: 60000, maxChars: 268435456 }' },
    upstream.url,
  );
  const client = connect(Number(new URL(url).port), '127.0.0.1').on('error', () => {});
  client.write('GET /ask/stream?question=q HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n');
  const [firstBytes] = (await once(client, 'data')) as [Buffer];
  client.pause();
  await until(() => app.responses.open === 0, 'the response is closed');
  t.equal(await metricValue(app, 'sluice_responses_stalled_total'), 1, 'sluice_responses_stalled_total');
  const [, id = ''] = /^id: (\S+)/m.exec(firstBytes.toString()) ?? [];
  const resumed = await open(`${url}/ask/stream?question=q`, { headers: { 'last-event-id': id } });
  t.equal(resumed.response.statusCode, 200, 'a client resumes');
  await resumed.until('delta');
  resumed.cut();
  await until(() => upstream.open.size === 0 && app.streams.active === 0, 'the generation has reached its limit');
  client.destroy();
});

t.test('a thousand concurrent disconnects release every response, generation and connection', async (t) => {
  const upstream = await rawUpstream(t, partial);
  const { app, url } = await serveProvider(t, {}, upstream.url, '');
  const readings = await Promise.all(Array.from({ length: 1_000 }, () => open(`${url}/ask/stream?question=q`)));
  await until(() => upstream.requests.length >= 1_000, 'every question calls the upstream');
  for (const reading of readings) reading.cut();
  await until(
    () => app.streams.active === 0 && app.responses.open === 0 && upstream.open.size === 0,
    'nothing is open',
  );
});
