import { setImmediate as turn } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { runAttempt } from '../../plugins/llm/attempt.ts';
import type { ProviderError } from '../../providers/errors.ts';
import type { Provider, StreamPart } from '../../providers/types.ts';
import { bellaAt, serve, writeConfig } from '../helper.ts';
import { manualClock } from '../manual-clock.ts';
import { readAll } from '../sse-client.ts';
import { sse, startUpstream, text } from '../upstream.ts';

const DEADLINES = { firstTokenMs: 60_000, idleMs: 30_000, thinkingMs: 300_000, totalMs: 600_000 };
const part = (content: string): StreamPart => ({ type: 'text', text: content });

/** A provider that yields parts when the test gives them, and ignores its signal. */
function manualProvider() {
  const requested: ((part: StreamPart) => void)[] = [];
  async function* parts() {
    for (;;) yield await new Promise<StreamPart>((resolve) => requested.push(resolve));
  }
  const give = async (content: string) => {
    while (requested.length === 0) await turn();
    requested.shift()?.(part(content));
    await turn();
  };
  return { parts, give };
}

/** Starts one attempt on a manual clock, with a provider that ignores its signal. */
function startAttempt(signal = new AbortController().signal) {
  const clock = manualClock();
  const { parts, give } = manualProvider();
  const faults: unknown[] = [];
  let aborted: unknown;
  let drained: Promise<void> | undefined;
  const call = (upstream: AbortSignal) => {
    upstream.addEventListener('abort', () => {
      aborted = upstream.reason;
    });
    return parts();
  };
  runAttempt(call, DEADLINES, clock, { onPart: () => drained, onFault: (fault) => faults.push(fault) }, signal);
  return {
    clock,
    give,
    /** Blocks the sink until the returned function is called. */
    blockSink() {
      let release = () => {};
      drained = new Promise((resolve) => {
        release = resolve;
      });
      return () => {
        drained = undefined;
        release();
      };
    },
    /** Checks that the attempt failed once and cleaned up. Returns its fault. */
    fault(t: Test) {
      t.equal(faults.length, 1, 'one fault is reported');
      t.equal(aborted, faults[0], 'the upstream call is aborted with the fault');
      t.equal(clock.pending, 0, 'no timer is pending');
      return faults[0] as ProviderError;
    },
    faults,
  };
}

t.test('an attempt without a first part times out after firstTokenMs', async (t) => {
  const { clock, fault, faults } = startAttempt();
  clock.advance(DEADLINES.firstTokenMs - 1);
  t.equal(faults.length, 0);
  clock.advance(1);
  t.match(fault(t), { code: 'upstream_timeout', stage: 'first_token', retryable: true });
});

t.test('an attempt times out idleMs after the last part, not counting time in which the sink is blocked', async (t) => {
  const { clock, give, blockSink, fault, faults } = startAttempt();
  for (let i = 0; i < 3; i++) {
    clock.advance(DEADLINES.idleMs - 1);
    await give('x');
  }
  const release = blockSink();
  await give('x');
  clock.advance(DEADLINES.idleMs * 10);
  t.equal(faults.length, 0, 'no timeout while the sink is blocked');
  release();
  await turn();
  clock.advance(DEADLINES.idleMs - 1);
  t.equal(faults.length, 0);
  clock.advance(1);
  t.match(fault(t), { code: 'upstream_timeout', stage: 'idle' });
});

t.test('an endless answer times out after totalMs', async (t) => {
  const { clock, give, fault } = startAttempt();
  for (let at = 0; at < DEADLINES.totalMs; at += 20_000) {
    await give('x');
    clock.advance(20_000);
  }
  t.match(fault(t), { code: 'upstream_timeout', stage: 'total' });
});

t.test('an abort of the signal ends the attempt immediately', async (t) => {
  const controller = new AbortController();
  const { fault } = startAttempt(controller.signal);
  controller.abort();
  t.equal(fault(t).name, 'AbortError');
});

t.test('comments of the upstream do not extend idleMs', async (t) => {
  const upstream = await startUpstream(t, ({ response }) => {
    sse(response).write(text('first'));
    const pings = setInterval(() => response.write(': ping\n\n'), 10);
    response.on('close', () => clearInterval(pings));
  });
  const yaml = 'models: [{ name: quick, idleMs: 150, targets: [{ provider: bella, model: gpt-4o }] }]';
  const { url } = await serve(t, {
    env: bellaAt(upstream.url, { CONFIG_FILE: writeConfig(t, yaml), DEFAULT_MODEL: 'quick' }),
  });
  const { events } = await readAll(`${url}/ask/stream?question=q`);
  t.match(events.at(-1)?.json, { type: 'error', code: 'upstream_timeout', stage: 'idle', retryable: true });
  t.equal(events.at(-2)?.json.content, 'first');
  await upstream.calls[0]?.closed;
});

t.test('a provider that throws, ends early or hangs ends the stream with an error', async (t) => {
  const env = { BELLA_API_KEY: 'k', DEFAULT_MODEL: 'bella/m' };
  const createProvider = (stream: Provider['stream']): Provider => ({ name: 'bella', stream, close: async () => {} });
  const throwing = createProvider(async function* () {
    yield part('partial');
    throw new TypeError('SECRET detail');
  });
  const endingEarly = createProvider(async function* () {
    yield part('partial');
  });
  for (const provider of [throwing, endingEarly]) {
    const { url } = await serve(t, { env, providers: { bella: provider } });
    const { events } = await readAll(`${url}/ask/stream?question=q`);
    t.same(
      events.slice(1).map(({ json }) => json),
      [
        { type: 'delta', content: 'partial' },
        { type: 'error', code: 'internal', message: 'Internal error.', retryable: false },
      ],
    );
    t.equal((await fetch(`${url}/livez`)).status, 200, 'the service continues');
  }

  const yaml = 'models: [{ name: m, totalMs: 100, targets: [{ provider: bella, model: m }] }]';
  const hanging = createProvider(() => manualProvider().parts());
  const { app, url } = await serve(t, {
    env: { ...env, DEFAULT_MODEL: 'm', CONFIG_FILE: writeConfig(t, yaml) },
    providers: { bella: hanging },
  });
  const { events } = await readAll(`${url}/ask/stream?question=q`);
  t.match(events.at(-1)?.json, { code: 'upstream_timeout', stage: 'total' });
  t.equal(app.streams.active, 0, 'the slot is released');
});

t.test('a provider that throws when it is called ends the stream with an error', async (t) => {
  const env = { BELLA_API_KEY: 'k', DEFAULT_MODEL: 'bella/m' };
  const stream = () => {
    throw new TypeError('SECRET');
  };
  const { app, url } = await serve(t, { env, providers: { bella: { name: 'bella', stream, close: async () => {} } } });
  const { events } = await readAll(`${url}/ask/stream?question=q`);
  t.match(events.at(-1)?.json, { type: 'error', code: 'internal' });
  t.equal(app.streams.active, 0, 'the slot is released');
});

t.test('an answer longer than STREAM_MAX_CHARS ends with limit_exceeded', async (t) => {
  const upstream = await startUpstream(t, ({ response }) => {
    sse(response);
    const sendMore = () => {
      while (!response.destroyed) {
        if (!response.write(text('y'.repeat(100)))) return void response.once('drain', sendMore);
      }
    };
    sendMore();
  });
  const { url } = await serve(t, { env: bellaAt(upstream.url, { STREAM_MAX_CHARS: '2000' }) });
  const { events } = await readAll(`${url}/ask/stream?question=q`);
  t.match(events.at(-1)?.json, { type: 'error', code: 'limit_exceeded', retryable: false });
  await upstream.calls[0]?.closed;
});
