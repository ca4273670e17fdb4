import { setTimeout as sleep } from 'node:timers/promises';
import type { FastifyInstance } from 'fastify';
import t from 'tap';
import { measureEventLoopDelay } from '../../plugins/load/event-loop-delay.ts';
import { createReadInterval } from '../../plugins/load/read-interval.ts';
import { bearer, bellaAt, serve, sha256, until, writeConfig } from '../helper.ts';
import { type ManualClock, manualClock } from '../manual-clock.ts';
import { metricValue } from '../metric-value.ts';
import { postJson } from '../post-json.ts';
import { open } from '../sse-client.ts';
import { completeAnswer, DONE, STOP, sse, startUpstream, text } from '../upstream.ts';

/**
 * Creates a read interval on a simulated core. `load.work` is the utilization of the core at an interval of one
 * millisecond; longer intervals reduce it proportionally.
 */
function simulate(load: { work: number }, minMs = 10, maxMs = 80) {
  const clock = manualClock();
  const changes: number[] = [];
  let ms = minMs;
  const interval = createReadInterval({
    minMs,
    maxMs,
    clock,
    utilization: () => Math.min(1, load.work / Math.max(ms, 1)),
    random: () => 0.5,
    onChange(now) {
      ms = now;
      changes.push(now);
    },
  });
  /** Advances the clock, with ten new questions each second, and reads for each. A share of the connections waits. */
  const advance = (seconds: number, { reads = 10, waitingShare = 1 } = {}) => {
    for (let i = 0; i < seconds * 10; i++) {
      clock.advance(100);
      interval.isSaturated();
      for (let read = 0; read < reads; read++) interval.currentMs();
      for (let wait = 0; wait < reads * waitingShare; wait++) interval.nextMs();
    }
  };
  return { interval, advance, changes, clock };
}

t.test('the interval of an idle core is the minimum', async (t) => {
  const { interval, advance, changes } = simulate({ work: 5 });
  advance(5);
  t.equal(interval.currentMs(), 10);
  t.same(changes, [10], 'the interval does not change');
  t.notOk(interval.isSaturated());
});

t.test('the interval grows until the core is 80 % busy, and shrinks when the load ends', async (t) => {
  const load = { work: 32 };
  const { interval, advance } = simulate(load);
  advance(3);
  t.ok(Math.abs(interval.currentMs() - 40) < 2, `${interval.currentMs()} ms; 40 ms are 80 % utilization`);
  t.notOk(interval.isSaturated(), 'a busy core is not saturated');
  const settled = interval.currentMs();
  advance(1);
  t.ok(Math.abs(interval.currentMs() - settled) < 1, 'the interval does not oscillate');
  load.work = 1;
  advance(2);
  t.equal(interval.currentMs(), 10);
});

t.test('a core that stays overloaded is saturated, a short burst does not saturate it', async (t) => {
  const load = { work: 1_000 };
  const { interval, advance } = simulate(load);
  advance(4);
  t.equal(interval.currentMs(), 160, 'the interval is at most twice maxMs');
  t.notOk(interval.isSaturated(), 'not saturated before the interval was too long for three seconds');
  advance(2);
  t.ok(interval.isSaturated());
  load.work = 0;
  advance(2);
  t.notOk(interval.isSaturated(), 'not saturated two seconds after the load has ended');
});

t.test('a pause of an overload admits questions, and does not delay the next refusal', async (t) => {
  const load = { work: 1_000 };
  const { interval, advance } = simulate(load);
  advance(6);
  load.work = 32;
  advance(2.5);
  t.notOk(interval.isSaturated(), 'the core has time to spare');
  load.work = 1_000;
  advance(2);
  t.ok(interval.isSaturated(), 'full again, without another three seconds');
  load.work = 32;
  advance(6);
  load.work = 1_000;
  advance(3);
  t.notOk(interval.isSaturated(), 'after a longer pause a burst is a burst again');
  advance(3);
  t.ok(interval.isSaturated());
});

t.test('load that is not caused by reads does not saturate', async (t) => {
  const load = { work: 1_000 };
  const { interval, advance } = simulate(load);
  advance(6);
  t.ok(interval.isSaturated());
  advance(3, { reads: 0 }); // The core is as busy as before, but nothing is read.
  t.equal(interval.currentMs(), 10);
  t.notOk(interval.isSaturated());
});

t.test(
  'a core that is busy with streams slower than the interval is not saturated: it delays none of them',
  async (t) => {
    const { interval, advance } = simulate({ work: 1_000 });
    advance(10, { waitingShare: 0.2 });
    t.equal(interval.currentMs(), 160);
    t.notOk(interval.isSaturated());
    advance(6, { waitingShare: 0.3 });
    t.ok(interval.isSaturated(), 'others are delayed');
  },
);

t.test('nextMs adds up to a quarter of the growth as jitter', async (t) => {
  const { interval, advance } = simulate({ work: 32 });
  t.equal(interval.nextMs(), 10, 'the minimum has no jitter');
  advance(3);
  const ms = interval.currentMs();
  t.equal(interval.nextMs(), ms + (ms - 10) / 8, 'half of the jitter for a random number of 0.5');
});

t.test('the first sample after an idle minute ends the saturation', async (t) => {
  const load = { work: 1_000 };
  const { interval, advance, clock } = simulate(load);
  advance(6);
  t.ok(interval.isSaturated());
  load.work = 0;
  clock.advance(60_000);
  t.notOk(interval.isSaturated());
  load.work = 1_000;
  advance(4);
  t.notOk(interval.isSaturated(), 'a burst after a pause is a burst');
  advance(2);
  t.ok(interval.isSaturated());
});

t.test('an interval of 0 grows under load and shrinks to 0', async (t) => {
  const load = { work: 1 };
  const { interval, advance } = simulate(load, 0);
  t.equal(interval.currentMs(), 0);
  load.work = 8;
  advance(3);
  t.ok(Math.abs(interval.currentMs() - 10) < 1, `${interval.currentMs()} ms`);
  load.work = 0.1;
  advance(3);
  t.equal(interval.currentMs(), 0);
});

t.test('frequent calls do not make the interval grow faster', async (t) => {
  const { interval, clock } = simulate({ work: 1_000 });
  for (let i = 0; i < 50; i++) {
    clock.advance(2);
    interval.currentMs();
  }
  t.equal(interval.currentMs(), 12.5, 'one step for each 100 ms');
});

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

t.test('a blocked event loop counts as delay, also if no sample was taken, and an idle one does not', async (t) => {
  const clock = manualClock();
  const delay = measureEventLoopDelay(clock.now);
  t.teardown(() => delay.stop());
  t.equal(delay.meanMs(), 0, 'nothing is known before the first window has ended');
  await block(clock, 10);
  t.ok(delay.meanMs() > 5, `${delay.meanMs()} ms; turns of 20 ms delay the timers`);
  clock.advance(1_000);
  t.equal(delay.meanMs(), Number.POSITIVE_INFINITY, 'no sample in the whole window');
  const isShort = async () => {
    await sleep(100);
    clock.advance(1_000);
    return delay.meanMs() < 5;
  };
  await until(isShort, 'a window has only short turns');
});
