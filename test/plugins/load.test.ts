import t from 'tap';
import { createFrame } from '../../plugins/load/frame.ts';
import { createWheel, LONGEST_MS } from '../../plugins/load/wheel.ts';
import { bellaAt, serve, until } from '../helper.ts';
import { manualClock } from '../manual-clock.ts';
import { open } from '../sse-client.ts';
import { DONE, STOP, sse, startUpstream, text } from '../upstream.ts';

/** A frame under a load that is so many times the core, at a frame of a millisecond. */
function frameUnder(load: { work: number; fixed?: number }, leastMs = 10, fullMs = 80) {
  const clock = manualClock();
  const seen: number[] = [];
  const frame = createFrame({
    leastMs,
    fullMs,
    clock,
    utilization: () => Math.min(1, (load.fixed ?? 0) + load.work / Math.max(frame?.ms() ?? leastMs, 1)),
    random: () => 0.5,
    onChange: (ms) => seen.push(ms),
  });
  const pass = (seconds: number) => {
    for (let i = 0; i < seconds * 10; i++) {
      clock.advance(100);
      frame.ms();
    }
  };
  return { frame, pass, seen, clock };
}

t.test('the frame of a core with time to spare is the least', async (t) => {
  const { frame, pass, seen } = frameUnder({ work: 5 });
  pass(5);
  t.equal(frame.ms(), 10);
  t.same(seen, [10], 'and does not move');
  t.notOk(frame.isFull());
});

t.test('it grows until the core is busy enough, and no further, and comes back', async (t) => {
  const load = { work: 32 };
  const { frame, pass } = frameUnder(load);
  pass(3);
  t.ok(Math.abs(frame.ms() - 40) < 2, `${frame.ms()} ms, where 40 make it 80 % busy`);
  t.notOk(frame.isFull(), 'busy is not full');
  const settled = frame.ms();
  pass(1);
  t.ok(Math.abs(frame.ms() - settled) < 1, 'it does not swing');
  load.work = 1;
  pass(2);
  t.equal(frame.ms(), 10);
});

t.test('a core that stays too busy is full, a moment is not', async (t) => {
  const load = { work: 1_000 };
  const { frame, pass } = frameUnder(load);
  pass(1);
  t.notOk(frame.isFull(), 'after a second');
  pass(2);
  t.ok(frame.isFull(), 'after three');
  t.equal(frame.ms(), 160, 'twice the frame of a full core, and no more');
  load.work = 0;
  pass(2);
  t.notOk(frame.isFull(), 'and two seconds later there is room');
});

t.test('one look after a quiet minute is enough to let in again', async (t) => {
  const load = { work: 1_000 };
  const { frame, pass, clock } = frameUnder(load);
  pass(3);
  t.ok(frame.isFull());
  load.work = 0;
  clock.advance(60_000);
  t.notOk(frame.isFull());
});

t.test('a frame of nothing', async (t) => {
  const load = { work: 1 };
  const { frame, pass } = frameUnder(load, 0);
  t.equal(frame.ms(), 0);
  load.work = 8;
  pass(3);
  t.ok(Math.abs(frame.ms() - 10) < 1, `${frame.ms()} ms`);
  load.work = 0.1;
  pass(3);
  t.equal(frame.ms(), 0);
});

t.test('who asks often does not make it grow faster', async (t) => {
  const { frame, clock } = frameUnder({ work: 1_000 });
  for (let i = 0; i < 50; i++) {
    clock.advance(2);
    frame.ms();
  }
  t.equal(frame.ms(), 12.5, 'one step in a tenth of a second');
});

t.test('the wheel: never early, late by two ticks at most, one timer', async (t) => {
  const clock = manualClock();
  const wait = createWheel(clock);
  const due: { ms: number; from: number; at?: number }[] = [];
  let most = 0;
  for (let round = 0; round < 300; round++) {
    const entry: (typeof due)[number] = { ms: (round * 37) % 240, from: clock.now() };
    due.push(entry);
    wait(entry.ms, () => {
      entry.at = clock.now();
      if (round % 3 === 0) wait(1, () => {}); // Waits anew out of a turn.
    });
    most = Math.max(most, clock.pending);
    clock.advance(round % 7);
  }
  clock.advance(LONGEST_MS + 20);
  for (const { ms, from, at = Number.NaN } of due) t.ok(at >= from + ms && at <= from + ms + 8, `${ms}: ${at - from}`);
  t.equal(most, 1);
  t.equal(clock.pending, 0, 'it rests when nothing waits');
});

t.test('the wheel after a turn that was longer than it', async (t) => {
  const timers: (() => void)[] = [];
  let time = 0;
  const after = (_: number, fn: () => void) => {
    timers.push(fn);
    return () => {};
  };
  const wait = createWheel({ now: () => time, after });
  let called = 0;
  for (let ms = 0; ms < 240; ms += 10) wait(ms, () => called++);
  time = 10_000;
  timers.shift()?.();
  t.equal(called, 24);
  t.equal(timers.length, 0);
});

t.test('a fast model: few reads, every token, the first at once', async (t) => {
  const words = Array.from({ length: 200 }, (_, i) => `w${i} `);
  const upstream = await startUpstream(t, async ({ response }) => {
    sse(response);
    for (const word of words) {
      response.write(text(word));
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    response.end(STOP + DONE);
  });
  const { url } = await serve(t, { env: bellaAt(upstream.url, { STREAM_FLUSH_MS: '40' }) });
  const begun = performance.now();
  const reading = await open(`${url}/ask/stream?question=q`);
  await reading.until('delta');
  t.ok(performance.now() - begun < 1_000);
  await reading.until('end');
  const deltas = reading.events.filter(({ data }) => data.includes('"delta"'));
  t.equal(deltas.map(({ data }) => JSON.parse(data).content).join(''), words.join(''));
  t.ok(deltas.length < 20, `${deltas.length} events`);
});

t.test('a core that is busy in short turns is full, too, and normal again', async (t) => {
  const upstream = await startUpstream(t, ({ response }) => void sse(response).write(text('x')));
  const env = { STREAM_BUSY_FLUSH_MS: '5', STREAM_FLUSH_MS: '1', EVENT_LOOP_DELAY_MS: '10000' };
  const { app, url } = await serve(t, { env: bellaAt(upstream.url, env) });
  const ask = () =>
    fetch(`${url}/ask/stream`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: '{"question":"q"}',
    });
  t.equal((await ask()).status, 200, 'at first there is room');
  const busy = setInterval(() => {
    const until = performance.now() + 20;
    while (performance.now() < until);
  }, 1);
  await until(() => app.load.isTooHigh(), 'the core is full', 10_000);
  t.notOk(app.isUnderPressure(), 'though no turn is long');
  clearInterval(busy);
  const metrics = await app.metrics.text();
  t.ok(Number(/^sluice_frame_seconds (\S+)$/m.exec(metrics)?.[1]) > 0.005, 'the gauge says so');
  const since = performance.now();
  while ((await ask()).status !== 200) t.ok(performance.now() - since < 10_000, 'not yet');
});
