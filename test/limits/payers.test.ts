import t from 'tap';
import type { Identity } from '../../plugins/auth/identity.ts';
import { manualDate } from '../manual-date.ts';
import { metricValue } from '../metric-value.ts';
import { bareLimits, refusal } from './bare-limits.ts';

/** Limits of a visitor and of its key, which are both used up. */

const KEY: Identity = { owner: 'key:a' };
const visitor = (name: string, own: Partial<Identity>, key: Partial<Identity> = {}): Identity => ({
  owner: `key:a#${name}`,
  ...own,
  holder: { ...KEY, ...key },
});

const KINDS = {
  maxConcurrent: { message: 'Too many of your answers are running; retry when one has ended.' },
  tokensPerMinute: { message: 'Too many tokens in this minute; retry later.' },
  tokensPerDay: { message: 'Too many tokens in 24 hours; retry later.' },
};

for (const [kind, expected] of Object.entries(KINDS)) {
  const of = (limit: number) => ({ [kind]: limit });

  t.test(`${kind} of a visitor refuses it alone, and costs its key nothing`, async (t) => {
    const { reserve } = await bareLimits(t);
    const busy = visitor('busy', of(1), of(3));
    const running = await reserve(busy);
    for (let i = 0; i < 5; i++) t.match(await refusal(reserve(busy)), { statusCode: 429, ...expected });
    const others = [await reserve(visitor('b', of(1), of(3))), await reserve({ ...KEY, ...of(3) })];
    t.match(await refusal(reserve(visitor('c', of(1), of(3)))), expected, 'the limit of the key is used up');
    for (const one of [running, ...others]) one.settle({ totalTokens: 0 }, 0);
    for (const name of ['busy', 'b', 'c']) (await reserve(visitor(name, of(1), of(3)))).settle({ totalTokens: 0 }, 0);
  });

  t.test(`what ${kind} of the key refuses, the visitor gets back`, async (t) => {
    const { reserve } = await bareLimits(t);
    const all = visitor('a', { maxConcurrent: 1, tokensPerMinute: 1, tokensPerDay: 1 }, of(1));
    const running = await reserve({ ...KEY, ...of(1) });
    for (let i = 0; i < 3; i++) t.match(await refusal(reserve(all)), { statusCode: 429, ...expected });
    running.settle({ totalTokens: 0 }, 0);
    (await reserve(all)).settle({ totalTokens: 0 }, 0);
    t.pass('nothing of the visitor was held');
  });
}

t.test('both are charged with what was used, and the smaller limit bounds the estimate', async (t) => {
  const { reserve, fits } = await bareLimits(t);
  const one = visitor('a', { tokensPerDay: 100 }, { tokensPerMinute: 1_000 });
  const { estimate, settle } = await reserve(one, 5_000);
  t.equal(estimate.total, 100);
  settle({ totalTokens: 60 }, 0);
  t.equal(await fits(one, 40), true, '40 of the visitor are left');
  t.equal(await fits(one, 41), false);
  t.equal(await fits({ ...KEY, tokensPerMinute: 1_000 }, 940), true, '940 of the key are left');
  t.equal(await fits({ ...KEY, tokensPerMinute: 1_000 }, 941), false);
});

t.test('tokens of a day are free again 24 hours after its first question, and are counted as refused', async (t) => {
  const date = manualDate(t);
  const { app, reserve, fits } = await bareLimits(t);
  const owner: Identity = { owner: 'a', tokensPerDay: 100 };
  (await reserve(owner, 90)).settle({ totalTokens: 90 }, 0);
  date.advance(60_000);
  t.match(await refusal(reserve(owner, 11)), { retryAfterMs: 86_340_000 }, 'a minute of the day has passed');
  t.equal(await metricValue(app, 'sluice_refusals_total', { reason: 'limit_tokens_per_day' }), 1);
  date.advance(86_339_999);
  t.equal(await fits(owner, 11), false);
  date.advance(1);
  t.equal(await fits(owner, 100), true, 'the next day');
});

t.test('requests of a visitor count for its key until the visitor is refused', async (t) => {
  const { request } = await bareLimits(t);
  const busy = visitor('busy', { requestsPerMinute: 2 }, { requestsPerMinute: 4 });
  const statuses: number[] = [];
  for (let i = 0; i < 4; i++) statuses.push((await request(busy)).status);
  t.same(statuses, [200, 200, 429, 429]);
  const other = visitor('b', { requestsPerMinute: 3 }, { requestsPerMinute: 4 });
  t.match(await request(other), { status: 200, headers: { 'ratelimit-limit': '3', 'ratelimit-remaining': '2' } });
  t.match(await request(other), { status: 200 }, 'the refused requests cost the key nothing');
  const refused = await request(other);
  t.match(refused, { status: 429, headers: { 'ratelimit-limit': '4', 'ratelimit-remaining': '0' } }, 'the key refuses');
});
