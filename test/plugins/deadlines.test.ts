import { setImmediate as turn } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { runAttempt } from '../../plugins/llm/attempt.ts';
import type { ProviderError } from '../../providers/errors.ts';
import type { Provider, StreamPart } from '../../providers/types.ts';
import { bellaAt, serve } from '../helper.ts';
import { manualClock } from '../manual-clock.ts';
import { readAll } from '../sse-client.ts';
import { sse, startUpstream, text } from '../upstream.ts';

const LIMITS = { firstTokenMs: 60_000, idleMs: 30_000, totalMs: 600_000 };
const part = (content: string): StreamPart => ({ type: 'text', text: content });

/** A provider that gives parts when told to, and never looks at its signal. */
function deaf() {
  const waiting: ((part: StreamPart) => void)[] = [];
  async function* parts() {
    for (;;) yield await new Promise<StreamPart>((resolve) => waiting.push(resolve));
  }
  const give = async (content: string) => {
    while (waiting.length === 0) await turn();
    waiting.shift()?.(part(content));
    await turn();
  };
  return { parts, give };
}

/** One attempt on a clock turned by hand, with a provider that ignores its signal. */
function attempt(signal = new AbortController().signal) {
  const clock = manualClock();
  const { parts, give } = deaf();
  const faults: unknown[] = [];
  let aborted: unknown;
  let room: Promise<void> | undefined;
  const call = (upstream: AbortSignal) => {
    upstream.addEventListener('abort', () => {
      aborted = upstream.reason;
    });
    return parts();
  };
  runAttempt(call, LIMITS, clock, { onPart: () => room, onFault: (fault) => faults.push(fault) }, signal);
  return {
    clock,
    give,
    /** The sink takes nothing more until the returned function is called. */
    hold() {
      let release = () => {};
      room = new Promise((resolve) => {
        release = resolve;
      });
      return () => {
        room = undefined;
        release();
      };
    },
    fault(t: Test) {
      t.equal(faults.length, 1, 'one fault');
      t.equal(aborted, faults[0], 'the upstream call is aborted with it');
      t.equal(clock.pending, 0, 'no timer is left');
      return faults[0] as ProviderError;
    },
    faults,
  };
}

t.test('no first part', async (t) => {
  const { clock, fault, faults } = attempt();
  clock.advance(LIMITS.firstTokenMs - 1);
  t.equal(faults.length, 0);
  clock.advance(1);
  t.match(fault(t), { code: 'upstream_timeout', stage: 'first_token', retryable: true });
});

t.test('silence between parts; but while the sink takes nothing it is no silence', async (t) => {
  const { clock, give, hold, fault, faults } = attempt();
  for (let i = 0; i < 3; i++) {
    clock.advance(LIMITS.idleMs - 1);
    await give('x');
  }
  const release = hold();
  await give('x');
  clock.advance(LIMITS.idleMs * 10);
  t.equal(faults.length, 0, 'back-pressure');
  release();
  await turn();
  clock.advance(LIMITS.idleMs - 1);
  t.equal(faults.length, 0);
  clock.advance(1);
  t.match(fault(t), { code: 'upstream_timeout', stage: 'idle' });
});

t.test('an answer without end', async (t) => {
  const { clock, give, fault } = attempt();
  for (let at = 0; at < LIMITS.totalMs; at += 20_000) {
    await give('x');
    clock.advance(20_000);
  }
  t.match(fault(t), { code: 'upstream_timeout', stage: 'total' });
});

t.test('an abort ends it at once', async (t) => {
  const controller = new AbortController();
  const { fault } = attempt(controller.signal);
  controller.abort();
  t.equal(fault(t).name, 'AbortError');
});

t.test('pings and dripping bytes are no progress', async (t) => {
  const upstream = await startUpstream(t, ({ response }) => {
    sse(response).write(text('first'));
    const drip = setInterval(() => response.write(': ping\n\n'), 10);
    response.on('close', () => clearInterval(drip));
  });
  const file = `models: [{ name: quick, idleMs: 150, targets: [{ provider: bella, model: gpt-4o }] }]`;
  const path = t.testdir({ 'sluice.yaml': file });
  const { url } = await serve(t, {
    env: bellaAt(upstream.url, { CONFIG_FILE: `${path}/sluice.yaml`, DEFAULT_MODEL: 'quick' }),
  });
  const { events } = await readAll(`${url}/ask/stream?question=q`);
  t.match(events.at(-1)?.json, { type: 'error', code: 'upstream_timeout', stage: 'idle', retryable: true });
  t.equal(events.at(-2)?.json.content, 'first');
  await upstream.calls[0]?.closed;
});

t.test('a provider that throws, and one that hangs', async (t) => {
  const env = { BELLA_API_KEY: 'k', DEFAULT_MODEL: 'bella/m' };
  const made = (stream: Provider['stream']): Provider => ({ name: 'bella', stream, close: async () => {} });
  const throwing = made(async function* () {
    yield part('partial');
    throw new TypeError('SECRET detail');
  });
  const silentEnd = made(async function* () {
    yield part('partial');
  });
  for (const provider of [throwing, silentEnd]) {
    const { url } = await serve(t, { env, providers: { bella: provider } });
    const { events } = await readAll(`${url}/ask/stream?question=q`);
    t.same(
      events.slice(1).map(({ json }) => json),
      [
        { type: 'delta', content: 'partial' },
        { type: 'error', code: 'internal', message: 'Internal error.', retryable: false },
      ],
    );
    t.equal((await fetch(`${url}/livez`)).status, 200, 'the service lives on');
  }

  const path = t.testdir({
    'sluice.yaml': 'models: [{ name: m, totalMs: 100, targets: [{ provider: bella, model: m }] }]',
  });
  const hanging = made(() => deaf().parts());
  const { app, url } = await serve(t, {
    env: { ...env, DEFAULT_MODEL: 'm', CONFIG_FILE: `${path}/sluice.yaml` },
    providers: { bella: hanging },
  });
  const { events } = await readAll(`${url}/ask/stream?question=q`);
  t.match(events.at(-1)?.json, { code: 'upstream_timeout', stage: 'total' });
  t.equal(app.streams.active, 0);
});

t.test('a provider that throws before it begins', async (t) => {
  const env = { BELLA_API_KEY: 'k', DEFAULT_MODEL: 'bella/m' };
  const stream = () => {
    throw new TypeError('SECRET');
  };
  const { app, url } = await serve(t, { env, providers: { bella: { name: 'bella', stream, close: async () => {} } } });
  const { events } = await readAll(`${url}/ask/stream?question=q`);
  t.match(events.at(-1)?.json, { type: 'error', code: 'internal' });
  t.equal(app.streams.active, 0, 'its slot is free');
});

t.test('an answer longer than allowed', async (t) => {
  const upstream = await startUpstream(t, ({ response }) => {
    sse(response);
    const more = () => {
      while (!response.destroyed) if (!response.write(text('y'.repeat(100)))) return void response.once('drain', more);
    };
    more();
  });
  const { url } = await serve(t, { env: bellaAt(upstream.url, { STREAM_MAX_CHARS: '2000' }) });
  const { events } = await readAll(`${url}/ask/stream?question=q`);
  t.match(events.at(-1)?.json, { type: 'error', code: 'limit_exceeded', retryable: false });
  await upstream.calls[0]?.closed;
});
