import t from 'tap';
import { shareRenderings } from '../../routes/metrics/shared-rendering.ts';
import { build } from '../helper.ts';
import { manualClock } from '../manual-clock.ts';

/** The cost of `GET /metrics`, however often it is asked for. */

const INTERVAL_MS = 100;

t.test(
  'a rendering is shared by those who ask for it within the interval, and is never older than their call',
  async (t) => {
    const clock = manualClock();
    let rendered = 0;
    const { text } = shareRenderings(async () => String(++rendered), clock, INTERVAL_MS);
    t.equal(await text(), '1', 'the first one does not wait');
    const waiting = [text(), text()];
    clock.advance(INTERVAL_MS - 1);
    waiting.push(text());
    t.equal(rendered, 1, 'nothing is rendered before the interval is over');
    clock.advance(1);
    t.same(await Promise.all(waiting), ['2', '2', '2'], 'one rendering for all of them');
    t.equal(clock.pending, 0);
    const next = text();
    clock.advance(INTERVAL_MS);
    t.equal(await next, '3', 'the next interval begins with the rendering');
    clock.advance(INTERVAL_MS);
    t.equal(await text(), '4', 'after a pause nobody waits');
  },
);

t.test('a rendering that fails fails for those who share it, and not for the next', async (t) => {
  const clock = manualClock();
  let rendered = 0;
  const { text } = shareRenderings(
    () => {
      rendered += 1;
      if (rendered < 3) throw new Error(`rendering ${rendered}`);
      return Promise.resolve('text');
    },
    clock,
    INTERVAL_MS,
  );
  await t.rejects(text(), /rendering 1/);
  const waiting = Promise.allSettled([text(), text()]);
  clock.advance(INTERVAL_MS);
  t.same(
    (await waiting).map(({ status }) => status),
    ['rejected', 'rejected'],
  );
  t.equal(rendered, 2, 'both share one');
  clock.advance(INTERVAL_MS);
  t.equal(await text(), 'text');
});

t.test('nobody waits when the service closes, and no timer is left', async (t) => {
  const clock = manualClock();
  let rendered = 0;
  const { text, close } = shareRenderings(async () => String(++rendered), clock, INTERVAL_MS);
  await text();
  const waiting = text();
  close();
  t.equal(await waiting, '2');
  t.equal(clock.pending, 0);
  close();
  t.equal(rendered, 2, 'closing again renders nothing');
});

t.test('requests for metrics at the same time cause two renderings at most', async (t) => {
  const clock = manualClock();
  const app = await build(t, { clock });
  const { connections } = app.metrics;
  let rendered = 0;
  const get = connections.get.bind(connections);
  connections.get = () => {
    rendered += 1;
    return get();
  };
  const first = app.inject('/metrics');
  t.equal((await first).statusCode, 200);
  const others = Array.from({ length: 50 }, () => app.inject('/metrics'));
  // Each request runs through its hooks before it waits.
  for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve));
  t.equal(rendered, 1, 'the first has its own');
  clock.advance(INTERVAL_MS);
  const answers = await Promise.all(others);
  t.equal(answers.filter(({ statusCode, body }) => statusCode === 200 && body.includes('# TYPE')).length, 50);
  t.equal(rendered, 2, 'all others share one');
});
