import t from 'tap';
import { createReadInterval } from '../../plugins/load/read-interval.ts';
import { bellaAt, serve, until } from '../helper.ts';
import { manualClock } from '../manual-clock.ts';
import { open } from '../sse-client.ts';
import { DONE, STOP, sse, startUpstream, text } from '../upstream.ts';

/** A frame under a load that is so many times the core, at a frame of a millisecond. */
function frameUnder(load: { work: number }, minMs = 10, maxMs = 80) {
  const clock = manualClock();
  const seen: number[] = [];
  let ms = minMs;
  const frame = createReadInterval({
    minMs,
    maxMs,
    clock,
    utilization: () => Math.min(1, load.work / Math.max(ms, 1)),
    random: () => 0.5,
    onChange(now) {
      ms = now;
      seen.push(now);
    },
  });
  const pass = (seconds: number, read = true) => {
    for (let i = 0; i < seconds * 10; i++) {
      clock.advance(100);
      if (read) frame.currentMs();
      else frame.isSaturated();
    }
  };
  return { frame, pass, seen, clock };
}

t.test('the frame of a core with time to spare is the least', async (t) => {
  const { frame, pass, seen } = frameUnder({ work: 5 });
  pass(5);
  t.equal(frame.currentMs(), 10);
  t.same(seen, [10], 'and does not move');
  t.notOk(frame.isSaturated());
});

t.test('it grows until the core is busy enough, and no further, and comes back', async (t) => {
  const load = { work: 32 };
  const { frame, pass } = frameUnder(load);
  pass(3);
  t.ok(Math.abs(frame.currentMs() - 40) < 2, `${frame.currentMs()} ms, where 40 make it 80 % busy`);
  t.notOk(frame.isSaturated(), 'busy is not full');
  const settled = frame.currentMs();
  pass(1);
  t.ok(Math.abs(frame.currentMs() - settled) < 1, 'it does not swing');
  load.work = 1;
  pass(2);
  t.equal(frame.currentMs(), 10);
});

t.test('a core that stays too busy is full, a moment is not', async (t) => {
  const load = { work: 1_000 };
  const { frame, pass } = frameUnder(load);
  pass(1);
  t.notOk(frame.isSaturated(), 'after a second');
  pass(2);
  t.ok(frame.isSaturated(), 'after three');
  t.equal(frame.currentMs(), 160, 'twice the frame of a full core, and no more');
  load.work = 0;
  pass(2);
  t.notOk(frame.isSaturated(), 'and two seconds later there is room');
});

t.test('work that no frame makes less does not close the door', async (t) => {
  const load = { work: 1_000 };
  const { frame, pass } = frameUnder(load);
  pass(3);
  t.ok(frame.isSaturated());
  pass(3, false); // As busy as ever, with refusals: but nothing is read.
  t.equal(frame.currentMs(), 10);
  t.notOk(frame.isSaturated());
});

t.test('who begins a longer frame waits up to a quarter of its growth more', async (t) => {
  const { frame, pass } = frameUnder({ work: 32 });
  t.equal(frame.nextMs(), 10, 'the least is exact');
  pass(3);
  const ms = frame.currentMs();
  t.equal(frame.nextMs(), ms + (ms - 10) / 8, 'half of it at random 0.5');
});

t.test('one look after a quiet minute is enough to let in again', async (t) => {
  const load = { work: 1_000 };
  const { frame, pass, clock } = frameUnder(load);
  pass(3);
  t.ok(frame.isSaturated());
  load.work = 0;
  clock.advance(60_000);
  t.notOk(frame.isSaturated());
});

t.test('a frame of nothing', async (t) => {
  const load = { work: 1 };
  const { frame, pass } = frameUnder(load, 0);
  t.equal(frame.currentMs(), 0);
  load.work = 8;
  pass(3);
  t.ok(Math.abs(frame.currentMs() - 10) < 1, `${frame.currentMs()} ms`);
  load.work = 0.1;
  pass(3);
  t.equal(frame.currentMs(), 0);
});

t.test('who asks often does not make it grow faster', async (t) => {
  const { frame, clock } = frameUnder({ work: 1_000 });
  for (let i = 0; i < 50; i++) {
    clock.advance(2);
    frame.currentMs();
  }
  t.equal(frame.currentMs(), 12.5, 'one step in a tenth of a second');
});

t.test('a fast model: few reads, and every token', async (t) => {
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
  const reading = await open(`${url}/ask/stream?question=q`);
  await reading.until('end');
  const deltas = reading.events.filter(({ data }) => data.includes('"delta"'));
  t.equal(deltas.map(({ data }) => JSON.parse(data).content).join(''), words.join(''));
  t.ok(deltas.length < words.length / 2, `${deltas.length} events for ${words.length} words`);
});

t.test('a core that is busy in short turns is full, too, and normal again', async (t) => {
  const upstream = await startUpstream(t, ({ response }) => {
    sse(response);
    const more = setInterval(() => response.write(text('x')), 1);
    response.on('close', () => clearInterval(more));
  });
  const env = { STREAM_MAX_FLUSH_MS: '12', MAX_EVENT_LOOP_DELAY_MS: '10000' };
  const { app, url } = await serve(t, { env: bellaAt(upstream.url, env) });
  const ask = () =>
    fetch(`${url}/ask/stream`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: '{"question":"q"}',
    });
  const reading = await open(`${url}/ask/stream?question=q`);
  t.equal(reading.response.statusCode, 200, 'at first there is room');
  await reading.until('delta');
  const busy = setInterval(() => {
    const until = performance.now() + 20;
    while (performance.now() < until);
  }, 1);
  t.teardown(() => clearInterval(busy));
  await until(() => app.load.isOverloaded(), 'the core is full');
  t.notOk(app.isUnderPressure(), 'though no turn is long');
  clearInterval(busy);
  const metrics = await app.metrics.text();
  t.ok(Number(/^sluice_upstream_read_interval_seconds (\S+)$/m.exec(metrics)?.[1]) > 0.012, 'the gauge says so');
  const isAccepted = async () => {
    await new Promise((resolve) => setTimeout(resolve, 50));
    return (await ask()).status === 200;
  };
  await until(isAccepted, 'new questions are accepted again');
  reading.cut();
});
