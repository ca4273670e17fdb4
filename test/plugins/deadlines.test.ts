import t from 'tap';
import { withDeadlines } from '../../plugins/llm/deadlines.ts';
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
  return { parts, give: (content: string) => waiting.shift()?.(part(content)) };
}

t.test('stages, on a clock turned by hand, with a provider that ignores its signal', async (t) => {
  const stageOf = async (
    play: (
      turn: ReturnType<typeof manualClock>,
      give: (content: string) => void,
      next: () => Promise<unknown>,
    ) => Promise<void>,
  ) => {
    const clock = manualClock();
    const { parts, give } = deaf();
    let aborted: unknown;
    const watched = withDeadlines(
      (signal) => {
        signal.addEventListener('abort', () => (aborted = signal.reason));
        return parts();
      },
      LIMITS,
      clock,
      new AbortController().signal,
    );
    let fault: unknown;
    const next = () => watched.next().catch((error) => (fault = error));
    await play(clock, give, next);
    t.equal(aborted, fault, 'the upstream call is aborted with the same error');
    t.equal(clock.pending, 0, 'no timer is left');
    return fault as ProviderError;
  };

  t.match(
    await stageOf(async (clock, _, next) => {
      const waiting = next();
      clock.advance(LIMITS.firstTokenMs);
      await waiting;
    }),
    { code: 'upstream_timeout', stage: 'first_token', retryable: true },
  );

  t.match(
    await stageOf(async (clock, give, next) => {
      for (let i = 0; i < 3; i++) {
        const waiting = next();
        await Promise.resolve();
        clock.advance(LIMITS.idleMs - 1);
        give('x');
        await waiting;
      }
      clock.advance(LIMITS.idleMs * 10); // nobody waits: back-pressure is no silence
      const waiting = next();
      clock.advance(LIMITS.idleMs);
      await waiting;
    }),
    { code: 'upstream_timeout', stage: 'idle' },
  );

  t.match(
    await stageOf(async (clock, give, next) => {
      for (let at = 0; at < LIMITS.totalMs; at += 20_000) {
        const waiting = next();
        await Promise.resolve();
        give('x');
        clock.advance(20_000);
        await waiting;
      }
    }),
    { code: 'upstream_timeout', stage: 'total' },
  );
});

t.test('an abort settles at once, and leaves nothing', async (t) => {
  const clock = manualClock();
  const controller = new AbortController();
  const watched = withDeadlines(() => deaf().parts(), LIMITS, clock, controller.signal);
  const waiting = watched.next();
  controller.abort();
  await t.rejects(waiting, { name: 'AbortError' });
  t.equal(clock.pending, 0);
  t.match(await watched.next(), { done: true });
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
        { type: 'error', code: 'internal', message: 'Something went wrong here.', retryable: false },
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

t.test('an answer longer than allowed', async (t) => {
  const upstream = await startUpstream(t, ({ response }) => {
    sse(response);
    const more = () => {
      while (!response.destroyed) if (!response.write(text('y'.repeat(100)))) return void response.once('drain', more);
    };
    more();
  });
  const { url } = await serve(t, { env: bellaAt(upstream.url, { STREAM_MAX_BYTES: '2000' }) });
  const { events } = await readAll(`${url}/ask/stream?question=q`);
  t.match(events.at(-1)?.json, { type: 'error', code: 'limit_exceeded', retryable: false });
  await upstream.calls[0]?.closed;
});
