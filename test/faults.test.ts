import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { Writable } from 'node:stream';
import type { FastifyInstance } from 'fastify';
import t, { type Test } from 'tap';
import { systemClock } from '../plugins/clock.ts';
import { serve, until } from './helper.ts';
import { CHUNKED, chunked, head, LAST_CHUNK, type RawScript, rawUpstream } from './raw-upstream.ts';
import { open, readAll } from './sse-client.ts';
import { chunk, DONE, STOP, text } from './upstream.ts';

/**
 * The table of faults, one row each, on real sockets: the client sees the right error, nothing is left afterwards,
 * the right counter has moved, nothing secret has leaked. The deadlines are long enough for a busy machine;
 * `deadlines.test.ts` tests them on a clock turned by hand.
 */

const SECRETS = /CANARY/;
const DEADLINES = 'deadlines: { connectMs: 1500, headersMs: 1500, firstTokenMs: 2500, idleMs: 1000, totalMs: 20000 }';
const OK = chunked(text('whole') + STOP + DONE);

interface Row {
  readonly name: string;
  /** What the upstream does, or where there is none. */
  readonly upstream: RawScript | string;
  readonly type?: string;
  readonly file?: string;
  /** The last event. */
  readonly last: object;
  /** The text before it. */
  readonly said?: string;
  /** Outcome of the attempts, and how many there are. */
  readonly outcome: string;
  readonly calls?: number;
}

const partial = (socket: Socket) => socket.write(CHUNKED + chunked(text('partial')));
const refusing =
  (status: number, headers = {}): RawScript =>
  (socket) => {
    const body = '{"error":{"message":"CANARY-upstream"}}';
    socket.write(
      head(status, { 'content-type': 'application/json', 'content-length': String(body.length), ...headers }) + body,
    );
  };
const onceThen =
  (first: RawScript): RawScript =>
  (socket, n) => {
    if (n === 1) first(socket, n);
    else socket.write(Buffer.concat([Buffer.from(CHUNKED), OK, Buffer.from(LAST_CHUNK)]));
  };
const error = (code: string, more = {}) => ({ type: 'error', code, ...more });
const whole = { type: 'end', answer: 'whole' };

const ROWS: Row[] = [
  {
    name: 'refused',
    upstream: 'http://127.0.0.1:1',
    last: error('upstream_unreachable', { retryable: true }),
    outcome: 'connect',
    calls: 2,
  },
  { name: 'DNS', upstream: 'http://sluice.invalid', last: error('upstream_unreachable'), outcome: 'dns', calls: 2 },
  {
    name: 'stall before headers',
    upstream: () => {},
    last: error('upstream_timeout', { stage: 'headers' }),
    outcome: 'headers_timeout',
  },
  {
    name: 'stall before the first token, pings or not',
    upstream: (socket) => {
      socket.write(CHUNKED + chunked(chunk({ role: 'assistant', content: '' })));
      const pings = setInterval(() => socket.write(chunked(': ping\n\n')), 50);
      socket.on('close', () => clearInterval(pings));
    },
    last: error('upstream_timeout', { stage: 'first_token' }),
    outcome: 'first_token_timeout',
  },
  {
    name: 'stall mid-stream',
    upstream: partial,
    last: error('upstream_timeout', { stage: 'idle' }),
    said: 'partial',
    outcome: 'idle_timeout',
  },
  {
    name: 'one byte at a time, and never a whole event',
    upstream: (socket) => {
      partial(socket);
      const drip = setInterval(() => socket.write(chunked('d')), 50);
      socket.on('close', () => clearInterval(drip));
    },
    last: error('upstream_timeout', { stage: 'idle' }),
    said: 'partial',
    outcome: 'idle_timeout',
  },
  {
    name: 'reset mid-stream',
    upstream: (socket) => {
      partial(socket);
      setTimeout(() => socket.resetAndDestroy(), 30);
    },
    last: error('upstream_truncated', { retryable: true }),
    said: 'partial',
    outcome: 'reset',
  },
  {
    name: 'half a character, then the end',
    upstream: (socket) => {
      const half = Buffer.from(text('世界')).subarray(0, -16);
      socket.end(
        Buffer.concat([Buffer.from(CHUNKED), chunked(text('partial')), chunked(half), Buffer.from(LAST_CHUNK)]),
      );
    },
    last: error('upstream_truncated'),
    said: 'partial',
    outcome: 'truncated',
  },
  {
    name: 'half an event, then the end of the connection',
    upstream: (socket) => void socket.end(`${head()}${text('partial')}data: {"choices":[{"delta":{"content":"lost`),
    last: error('upstream_truncated'),
    said: 'partial',
    outcome: 'truncated',
  },
  {
    name: 'malformed JSON',
    upstream: (socket) => void socket.write(CHUNKED + chunked(`${text('partial')}data: {"a":\n\n`)),
    last: error('upstream_protocol'),
    said: 'partial',
    outcome: 'bad_json',
  },
  {
    name: 'a line of ten megabytes',
    upstream: (socket) => {
      socket.write(CHUNKED + chunked(text('partial')) + chunked('data: '));
      for (let i = 0; i < 160; i++) socket.write(chunked('x'.repeat(65_536)));
    },
    last: error('upstream_protocol'),
    said: 'partial',
    outcome: 'event_too_large',
  },
  {
    name: 'an answer without end',
    file: 'streams: { maxChars: 2048 }',
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
    upstream: onceThen(refusing(429, { 'retry-after': '0' })),
    last: whole,
    outcome: 'http_429',
    calls: 2,
  },
  {
    name: '429 with Retry-After: 1',
    upstream: onceThen(refusing(429, { 'retry-after': '1' })),
    last: whole,
    outcome: 'http_429',
    calls: 2,
  },
  {
    name: '429 with a date that has passed',
    upstream: onceThen(refusing(429, { 'retry-after': 'Mon, 01 Jan 2024 00:00:00 GMT' })),
    last: whole,
    outcome: 'http_429',
    calls: 2,
  },
  {
    name: '429 with rubbish',
    upstream: onceThen(refusing(429, { 'retry-after': 'soon' })),
    last: whole,
    outcome: 'http_429',
    calls: 2,
  },
  {
    name: '429 with Retry-After: 3600',
    upstream: refusing(429, { 'retry-after': '3600' }),
    last: error('upstream_rate_limited', { retryAfter: 3600 }),
    outcome: 'http_429',
  },
  ...[500, 502, 503, 529].flatMap((status): Row[] => [
    { name: `${status}, once`, upstream: onceThen(refusing(status)), last: whole, outcome: `http_${status}`, calls: 2 },
    {
      name: `${status}, for good`,
      upstream: refusing(status),
      last: error('upstream_failed', { retryable: true }),
      outcome: `http_${status}`,
      calls: 2,
    },
  ]),
  {
    name: '503 whose body never comes',
    upstream: (socket) => void socket.write(head(503, { 'content-length': '100' })),
    last: error('upstream_failed', { retryable: true }),
    outcome: 'http_503',
    calls: 2,
  },
  ...[400, 404].map(
    (status): Row => ({
      name: `${status}`,
      upstream: refusing(status),
      last: error('upstream_rejected', { retryable: false }),
      outcome: `http_${status}`,
    }),
  ),
  ...[401, 403].map(
    (status): Row => ({
      name: `${status}`,
      upstream: refusing(status),
      last: error('upstream_rejected', { retryable: false }),
      outcome: 'credentials',
    }),
  ),
  {
    name: 'an error inside a 200',
    upstream: (socket) =>
      void socket.write(
        CHUNKED +
          chunked(`${text('partial')}data: {"error":{"message":"CANARY-upstream"}}\n\n${text('ignored')}${DONE}`),
      ),
    last: error('upstream_error'),
    said: 'partial',
    outcome: 'in_band',
  },
  {
    name: 'an error inside a 200 of Anthropic',
    type: 'anthropic',
    upstream: (socket) => {
      const delta = { type: 'content_block_delta', index: 0, delta: { type: 'text_delta', text: 'partial' } };
      const failure = { type: 'error', error: { type: 'overloaded_error', message: 'CANARY-upstream' } };
      socket.write(
        CHUNKED + chunked(`data: ${JSON.stringify(delta)}\n\nevent: error\ndata: ${JSON.stringify(failure)}\n\n`),
      );
    },
    last: error('upstream_error', { retryable: true }),
    said: 'partial',
    outcome: 'in_band',
  },
  {
    name: 'Ollama ends without its last line',
    type: 'ollama',
    upstream: (socket) =>
      void socket.end(`${head(200, { 'content-type': 'application/x-ndjson' })}{"message":{"content":"partial"}}\n`),
    last: error('upstream_truncated'),
    said: 'partial',
    outcome: 'truncated',
  },
  {
    name: 'a compressed body',
    upstream: (socket) => void socket.write(head(200, { 'content-encoding': 'gzip' })),
    last: error('upstream_protocol'),
    outcome: 'content_encoding',
  },
  {
    name: 'another type',
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

/** The system's clock, and how many timers wait. */
function countingClock() {
  let pending = 0;
  return {
    now: systemClock.now,
    after(ms: number, fn: () => void) {
      let waiting = true;
      pending += 1;
      const done = () => {
        if (waiting) pending -= 1;
        waiting = false;
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

async function service(
  t: Test,
  { type = 'openai', file = '' }: Partial<Row>,
  baseUrl: string,
  deadlines = DEADLINES,
  more = {},
) {
  const clock = countingClock();
  let log = '';
  const logTo = new Writable({
    write(bytes, _, done) {
      log += bytes;
      done();
    },
  });
  const yaml = `${deadlines}\n${file}\nproviders: { it: { type: ${type}, baseUrl: "${baseUrl}", apiKeys: [CANARY-key], models: [m] } }`;
  const env = { CONFIG_FILE: `${t.testdir({ 'c.yaml': yaml })}/c.yaml`, STREAM_GRACE_MS: '0', ...more };
  const { app, url } = await serve(t, { env, clock, logTo });
  return { app, url, clock, log: () => log };
}

async function counted(app: FastifyInstance, name: string, labels: Record<string, string> = {}): Promise<number> {
  const values = (await app.metrics.registry.getSingleMetric(name)?.get())?.values ?? [];
  const fitting = values.filter((value) => Object.entries(labels).every(([key, label]) => value.labels[key] === label));
  return fitting.reduce((sum, { value }) => sum + value, 0);
}

for (const row of ROWS) {
  t.test(row.name, async (t) => {
    const upstream = typeof row.upstream === 'string' ? undefined : await rawUpstream(t, row.upstream);
    const { app, url, clock, log } = await service(t, row, upstream?.url ?? (row.upstream as string));
    const timers = clock.pending;
    const { calls = 1, outcome } = row;

    const ask = `${url}/ask/stream?question=CANARY-question`;
    const { events } = await readAll(ask);

    const last = events.at(-1);
    t.match(last?.json, row.last, 'the last event');
    t.equal(events.filter(({ json }) => ['end', 'error'].includes(json.type)).length, 1, 'exactly one terminal');
    const said = events.map(({ json }) => (json.type === 'delta' ? json.content : '')).join('');
    if (row.said !== undefined) t.equal(said, row.said, 'what came before it is kept');
    t.notMatch(said, /\ufffd/);
    const positions = events.map(({ id }) =>
      id.endsWith('.end') ? Number.POSITIVE_INFINITY : Number(id.split('.')[1]),
    );
    t.same(
      [...positions].sort((a, b) => a - b),
      positions,
      'ids rise',
    );
    t.equal(new Set(positions).size, positions.length, 'strictly');

    if (upstream) t.equal(upstream.requests.length, calls, 'calls of the upstream');
    const failures = row.last === whole ? calls - 1 : calls;
    t.equal(await counted(app, 'sluice_upstream_attempts_total', { outcome }), failures, `counted as ${outcome}`);
    t.equal(await counted(app, 'sluice_retries_total'), calls - 1, 'retries');

    await until(() => app.streams.active === 0 && app.responses.open === 0, 'slots and responses are free');
    if (upstream && row.last !== whole) {
      await until(
        () => [...upstream.open].every((socket) => socket.destroyed || idle(row)),
        'the upstream’s socket is closed',
      );
    }
    await until(() => clock.pending <= timers + 1, 'no timer is left but the one that forgets the answer');

    const again = await fetch(ask, { headers: { 'last-event-id': last?.id ?? '' } });
    t.equal(again.status, 204, 'a reconnect asks nobody');
    if (upstream) t.equal(upstream.requests.length, calls);
    t.notMatch(JSON.stringify(events), SECRETS, 'nothing secret in the answer');
    t.notMatch(log(), SECRETS, 'nor in the log');
  });
}

/** A refusal was read whole, so that its connection may be used again. */
function idle({ outcome }: Row): boolean {
  return /^http_|credentials|redirect/.test(outcome);
}

t.test('connect timeout', { skip: process.platform !== 'linux' && 'the queue of a listener differs' }, async (t) => {
  // A listener that is stopped accepts nothing; once its queue is full, nobody gets an answer.
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
  const { app, url } = await service(t, {}, `http://127.0.0.1:${port}`);
  const { events } = await readAll(`${url}/ask/stream?question=q`);
  t.match(events.at(-1)?.json, { code: 'upstream_timeout', stage: 'connect', retryable: true });
  t.equal(await counted(app, 'sluice_upstream_attempts_total', { outcome: 'connect_timeout' }), 2);
});

t.test('a client that resets, or half-closes, ends the call', async (t) => {
  const ways: Record<string, (socket: Socket) => unknown> = {
    reset: (socket) => socket.resetAndDestroy(),
    'half-close': (socket) => socket.end(),
  };
  for (const [name, leave] of Object.entries(ways)) {
    const upstream = await rawUpstream(t, partial);
    const { app, url } = await service(t, {}, upstream.url);
    const client = connect(Number(new URL(url).port), '127.0.0.1').on('error', () => {});
    client.write('GET /ask/stream?question=q HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n');
    await until(() => upstream.requests.length === 1, 'asked');
    await once(client, 'data');
    leave(client);
    await until(() => upstream.open.size === 0 && app.streams.active === 0, `${name}: free`);
    t.equal(await counted(app, 'sluice_responses_aborted_total'), 1, `${name}: counted`);
    client.destroy();
  }
});

t.test('a client that stops reading is cut off, can resume, and slows nobody', async (t) => {
  const upstream = await rawUpstream(t, (socket) => {
    socket.write(CHUNKED);
    const more = () => {
      while (!socket.destroyed && socket.write(chunked(text('x'.repeat(32_768)))));
    };
    socket.on('drain', more);
    more();
  });
  const { app, url } = await service(
    t,
    { file: 'streams: { stallMs: 500, graceMs: 60000, maxChars: 268435456 }' },
    upstream.url,
  );
  const client = connect(Number(new URL(url).port), '127.0.0.1').on('error', () => {});
  client.write('GET /ask/stream?question=q HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n');
  await once(client, 'data');
  client.pause();
  let gone = false;
  client.on('close', () => (gone = true));
  await until(() => app.responses.open === 0, 'the response is closed');
  t.equal(await counted(app, 'sluice_responses_stalled_total'), 1);
  await until(() => upstream.open.size === 0, 'and the call with it');
  t.notOk(gone && app.streams.active > 0);
  client.destroy();
});

t.test('a thousand clients that vanish at once are all let go', async (t) => {
  const upstream = await rawUpstream(t, partial);
  const { app, url } = await service(t, {}, upstream.url, '');
  const readings = await Promise.all(Array.from({ length: 1_000 }, () => open(`${url}/ask/stream?question=q`)));
  await until(() => upstream.requests.length >= 1_000, 'all are asked');
  for (const reading of readings) reading.cut();
  await until(() => app.streams.active === 0 && app.responses.open === 0 && upstream.open.size === 0, 'all are free');
});

t.test('under pressure new questions are refused, and readers come back', async (t) => {
  const upstream = await rawUpstream(t, partial);
  const { app, url } = await service(t, {}, upstream.url, '', { MAX_EVENT_LOOP_DELAY_MS: '15' });
  const reading = await open(`${url}/ask/stream?question=q`);
  const { id } = await reading.until('delta');
  const busy = setInterval(() => {
    const until = performance.now() + 80;
    while (performance.now() < until);
  }, 1);
  await until(() => app.isUnderPressure(), 'the loop is late');
  const body = JSON.stringify({ question: 'q' });
  const refused = await fetch(`${url}/ask/stream`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body,
  });
  t.equal(refused.status, 503);
  t.equal(refused.headers.get('retry-after'), '5');
  t.match(await refused.json(), { error: { code: 'overloaded' } });
  t.equal(await counted(app, 'sluice_refusals_total', { reason: 'pressure' }), 1);
  const back = await open(`${url}/ask/stream?question=q`, { headers: { 'last-event-id': id } });
  t.equal(back.response.statusCode, 200);
  await until(() => back.retry !== undefined, 'readers are let in');
  clearInterval(busy);
  reading.cut();
  back.cut();
  await until(() => !app.isUnderPressure(), 'normal again');
  t.equal(upstream.requests.length, 1, 'who was refused cost nothing');
});
