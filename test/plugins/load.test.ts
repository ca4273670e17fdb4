import { setTimeout as sleep } from 'node:timers/promises';
import type { FastifyInstance } from 'fastify';
import t from 'tap';
import { bearer, bellaAt, serve, sha256, until, writeConfig } from '../helper.ts';
import { type ManualClock, manualClock } from '../manual-clock.ts';
import { metricValue } from '../metric-value.ts';
import { postJson } from '../post-json.ts';
import { open } from '../sse-client.ts';
import { completeAnswer, DONE, STOP, sse, startUpstream, text } from '../upstream.ts';

t.test('a fast model is delivered completely, in fewer events than tokens', async (t) => {
  const words = Array.from({ length: 200 }, (_, i) => `w${i} `);
  const upstream = await startUpstream(t, async ({ response }) => {
    sse(response);
    for (const word of words) {
      response.write(text(word));
      await sleep(1); // A fast model: 40 tokens in one flush interval.
    }
    response.end(STOP + DONE);
  });
  const { url } = await serve(t, { env: bellaAt(upstream.url, { STREAM_FLUSH_MS: '40' }) });
  const reading = await open(`${url}/ask/stream?question=q`);
  await reading.until('end');
  const deltas = reading.events.filter(({ data }) => data.includes('"delta"'));
  t.equal(deltas.map(({ data }) => JSON.parse(data).content).join(''), words.join(''));
  t.ok(deltas.length < words.length / 2, `${deltas.length} events for ${words.length} words`);
});

/** Keeps this process busy in turns of 20 ms, a tenth of a second by the clock of the service each. */
async function block(clock: ManualClock, turns: number): Promise<void> {
  for (let i = 0; i < turns; i++) {
    const end = performance.now() + 20;
    while (performance.now() < end);
    clock.advance(100);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

/** Waits until no answer runs. Connections to upstreams wait for their read interval, by a clock that stands still. */
async function untilIdle(app: FastifyInstance, clock: ManualClock): Promise<void> {
  await until(() => {
    clock.advance(100);
    return app.streams.active === 0;
  }, 'no answer runs');
}

t.test('a core that is busy in short turns is overloaded, and accepts questions again afterwards', async (t) => {
  const upstream = await startUpstream(t, ({ response }) => {
    sse(response);
    const tokens = setInterval(() => response.write(text('x')), 1);
    response.on('close', () => clearInterval(tokens));
  });
  const clock = manualClock();
  const env = { STREAM_GRACE_MS: '0', STREAM_MAX_FLUSH_MS: '120', MAX_EVENT_LOOP_DELAY_MS: '10000' };
  const { app, url } = await serve(t, { env: bellaAt(upstream.url, env), clock });
  const reading = await open(`${url}/ask/stream?question=q`);
  t.equal(reading.response.statusCode, 200, 'a question is accepted');
  await reading.until('delta');
  await block(clock, 25);
  t.notOk(app.load.isOverloaded(), 'a burst is no overload');
  let isOverloaded = false;
  for (let i = 0; i < 20 && !isOverloaded; i++) {
    await block(clock, 5);
    isOverloaded = app.load.isOverloaded(); // Near the limit by chance.
  }
  t.ok(isOverloaded);
  t.ok((await metricValue(app, 'sluice_upstream_read_interval_seconds')) > 0.12, 'the metric shows the interval');
  const isAccepted = async () => {
    clock.advance(100);
    await sleep(50); // Many questions in a row would be a load themselves.
    const { status, body } = await postJson(`${url}/ask/stream`, { question: 'q' });
    await body?.cancel();
    return status === 200;
  };
  await until(isAccepted, 'new questions are accepted again');
  reading.cut();
  await untilIdle(app, clock);
});

t.test('an overloaded service refuses the owner that causes the load, and not the others', async (t) => {
  const upstream = await startUpstream(t, completeAnswer('x'));
  const keys = ['noisy', 'quiet'].map((name) => `  - { name: ${name}, sha256: "${sha256(name)}" }`).join('\n');
  const env = { CONFIG_FILE: writeConfig(t, `keys:\n${keys}\n`), MAX_EVENT_LOOP_DELAY_MS: '1' };
  const clock = manualClock();
  const { app, url } = await serve(t, { env: bellaAt(upstream.url, env), clock });
  const ask = (key: string) => postJson(`${url}/ask/stream`, { question: 'q' }, bearer(key));
  for (let i = 0; i < 4; i++) {
    t.notOk(app.load.isOverloaded(), 'delays have to last for three seconds');
    await block(clock, 10);
  }
  t.ok(app.load.isOverloaded());
  t.equal((await ask('quiet')).status, 503, 'alone, an owner is refused');
  for (let i = 0; i < 10; i++) await postJson(`${url}/v1/chat/completions`, 'x'.repeat(4_000_000), bearer('noisy'));
  const noisy = await ask('noisy');
  t.equal(noisy.status, 503);
  t.match(await noisy.json(), { error: { code: 'overloaded' } });
  await block(clock, 1);
  t.ok(app.load.isOverloaded(), 'the service is still overloaded');
  const quiet = await ask('quiet');
  t.equal(quiet.status, 200);
  t.match(await quiet.text(), /"type":"end"/);
});

t.test('an overloaded event loop refuses new questions, and readers can still resume', async (t) => {
  let calls = 0;
  const upstream = await startUpstream(t, ({ response }) => {
    calls += 1;
    sse(response).write(text('x'));
  });
  const clock = manualClock();
  const { app, url } = await serve(t, {
    env: bellaAt(upstream.url, { STREAM_GRACE_MS: '0', MAX_EVENT_LOOP_DELAY_MS: '10' }),
    clock,
  });
  const reading = await open(`${url}/ask/stream?question=q`);
  const { id } = await reading.until('delta');
  for (let i = 0; i < 5; i++) {
    app.load.isOverloaded();
    await block(clock, 10);
  }
  t.ok(app.load.isOverloaded());
  const refused = await postJson(`${url}/ask/stream`, { question: 'q' });
  t.equal(refused.status, 503, 'a new question is refused');
  t.equal(refused.headers.get('retry-after'), '5');
  t.match(await refused.json(), { error: { code: 'overloaded' } });
  t.equal(await metricValue(app, 'sluice_refusals_total', { reason: 'pressure' }), 1);
  const resumed = await open(`${url}/ask/stream?question=q`, { headers: { 'last-event-id': id } });
  t.equal(resumed.response.statusCode, 200, 'a reader resumes');
  await until(() => resumed.retry !== undefined, 'the resumed reader gets bytes');
  reading.cut();
  resumed.cut();
  await untilIdle(app, clock);
  t.equal(calls, 1, 'the refused question does not call the upstream');
});
