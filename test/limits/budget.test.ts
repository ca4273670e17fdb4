import t, { type Test } from 'tap';
import type { Identity } from '../../plugins/auth/identity.ts';
import { calendarPeriod } from '../../plugins/limits/calendar.ts';
import type { Reservation } from '../../plugins/limits/reservation.ts';
import { metricValue } from '../metric-value.ts';
import { type BareLimits, bareLimits, refusal } from './bare-limits.ts';

/** Budgets in one process. A token costs a millionth of a USD, so the budget of `micro(1_000)` is 1,000 tokens. */

const micro = (tokens: number, period: 'day' | 'month' = 'day') => ({ period, amount: tokens / 1e6 });
const owner = (tokens: number, period?: 'day' | 'month'): Identity => ({
  owner: 'key:a',
  budget: micro(tokens, period),
});
/** Ends a generation that costs `tokens` tokens. */
const end = ({ settle }: Reservation, tokens: number) => settle({ totalTokens: tokens }, 0, () => tokens / 1e6);

/** Replaces `Date.now` until the test ends, and returns the function that sets it. */
function dateAt(t: Test, date: string): (date: string) => void {
  let now = Date.parse(date);
  t.intercept(Date, 'now', { value: () => now, configurable: true, writable: true });
  return (next) => {
    now = Date.parse(next);
  };
}

async function usedIs({ fits }: BareLimits, identity: Identity, used: number, t: Test, why: string) {
  if (used === 0) return t.equal(await fits(identity, 1e9), true, `${why}: nothing is used`);
  const left = Math.round((identity.budget?.amount ?? 0) * 1e6) - used;
  if (left > 0) t.equal(await fits(identity, left), true, `${why}: ${left} are left`);
  return t.equal(await fits(identity, left + 1), false, `${why}: ${left + 1} are not`);
}

t.test('an answer is charged its estimate while it runs, and its cost when it has ended', async (t) => {
  const limits = await bareLimits(t);
  const running = await limits.reserve(owner(1_000), 600);
  await usedIs(limits, owner(1_000), 600, t, 'the estimate');
  end(running, 250);
  await usedIs(limits, owner(1_000), 250, t, 'the cost');
  end(await limits.reserve(owner(1_000), 750), 900);
  t.equal(await limits.fits(owner(1_000), 1), false, 'one answer may cost more than its estimate, and nothing follows');
});

t.test('a question whose estimate is larger than the budget is accepted only if nothing is used', async (t) => {
  const { fits, reserve } = await bareLimits(t);
  t.equal(await fits(owner(1_000), 5_000), true);
  end(await reserve(owner(1_000), 2), 1);
  t.equal(await fits(owner(1_000), 5_000), false);
  t.equal(await fits(owner(1_000), 999), true);
});

t.test('of parallel questions only as many are accepted as fit', async (t) => {
  const { reserve } = await bareLimits(t);
  const all = await Promise.allSettled(Array.from({ length: 10 }, () => reserve(owner(1_000), 300)));
  t.equal(all.filter(({ status }) => status === 'fulfilled').length, 3);
});

t.test('a refusal has the time of the renewal, and is counted', async (t) => {
  const setDate = dateAt(t, '2026-11-30T23:00:00.500Z');
  const { app, reserve } = await bareLimits(t);
  const day = owner(1);
  end(await reserve(day, 2), 5);
  const expected = { statusCode: 429, code: 'rate_limited', retryAfterMs: 3_599_500 };
  const message = 'The budget of this day is used up; it is renewed at 2026-12-01T00:00:00Z.';
  t.same(await refusal(reserve(day, 2)), { ...expected, message });
  const month = owner(1, 'month');
  end(await reserve(month, 2), 5);
  t.match(await refusal(reserve(month, 2)), {
    message: 'The budget of this month is used up; it is renewed at 2026-12-01T00:00:00Z.',
  });
  t.equal(await metricValue(app, 'sluice_refusals_total', { reason: 'limit_budget' }), 2);
  setDate('2026-11-30T23:59:59.999Z');
  t.match(await refusal(reserve(day, 2)), { retryAfterMs: 1_000 }, 'no less than a second');
  setDate('2026-12-01T00:00:00.000Z');
  end(await reserve(day, 2), 5);
  end(await reserve(month, 2), 5);
  t.match(await refusal(reserve(month, 2)), { retryAfterMs: 2_147_483_000 }, 'no more than a timer of a page takes');
});

t.test('an answer is charged to the period in which it began', async (t) => {
  const setDate = dateAt(t, '2026-11-30T23:59:59.000Z');
  const limits = await bareLimits(t);
  const running = await limits.reserve(owner(1_000), 600);
  setDate('2026-12-01T00:00:01.000Z');
  end(running, 900);
  await usedIs(limits, owner(1_000), 0, t, 'the new day');
  end(await limits.reserve(owner(1_000), 100), 100);
  setDate('2026-11-30T23:59:59.500Z');
  await usedIs(limits, owner(1_000), 900, t, 'after the clock was set back');
  setDate('2026-12-01T12:00:00.000Z');
  await usedIs(limits, owner(1_000), 100, t, 'and set forward again');
});

t.test('days and months are those of the calendar in UTC', async (t) => {
  for (const [kind, now, name, ends] of [
    ['day', '2026-11-27T00:00:00.000Z', '2026-11-27', '2026-11-28T00:00:00.000Z'],
    ['day', '2026-11-27T23:59:59.999Z', '2026-11-27', '2026-11-28T00:00:00.000Z'],
    ['day', '2026-12-31T12:00:00.000Z', '2026-12-31', '2027-01-01T00:00:00.000Z'],
    ['day', '2028-02-28T12:00:00.000Z', '2028-02-28', '2028-02-29T00:00:00.000Z'],
    ['day', '2028-02-29T12:00:00.000Z', '2028-02-29', '2028-03-01T00:00:00.000Z'],
    ['day', '2027-02-28T12:00:00.000Z', '2027-02-28', '2027-03-01T00:00:00.000Z'],
    // The clock of a place with daylight saving time would skip or repeat an hour.
    ['day', '2026-03-29T01:30:00.000Z', '2026-03-29', '2026-03-30T00:00:00.000Z'],
    ['month', '2026-01-31T12:00:00.000Z', '2026-01', '2026-02-01T00:00:00.000Z'],
    ['month', '2028-02-29T23:59:59.999Z', '2028-02', '2028-03-01T00:00:00.000Z'],
    ['month', '2026-12-31T23:59:59.999Z', '2026-12', '2027-01-01T00:00:00.000Z'],
    ['month', '2027-01-01T00:00:00.000Z', '2027-01', '2027-02-01T00:00:00.000Z'],
  ] as const) {
    t.same(calendarPeriod(kind, Date.parse(now)), { name, ends: Date.parse(ends) }, `${kind} at ${now}`);
  }
});

t.test('a changed amount applies to what is used; a changed period begins its own count', async (t) => {
  const limits = await bareLimits(t);
  end(await limits.reserve(owner(1_000), 500), 500);
  await usedIs(limits, owner(600), 500, t, 'a smaller amount');
  t.equal(await limits.fits(owner(400), 1), false, 'an amount below what is used');
  await usedIs(limits, owner(2_000), 500, t, 'a larger amount');
  await usedIs(limits, owner(1_000, 'month'), 0, t, 'the month');
  await usedIs(limits, owner(1_000), 500, t, 'the day again');
});

t.test('a visitor and its key are both charged, and what the key refuses the visitor gets back', async (t) => {
  const limits = await bareLimits(t);
  const visitor = (name: string, tokens: number, ofKey = 1_000): Identity => ({
    owner: `key:a#${name}`,
    budget: micro(tokens),
    holder: owner(ofKey),
  });
  const running = await limits.reserve(visitor('v', 500), 400);
  t.equal(running.charges?.length, 2);
  await usedIs(limits, owner(1_000), 400, t, 'the key while it runs');
  end(running, 300);
  await usedIs(limits, owner(1_000), 300, t, 'the key');
  t.equal(await limits.fits(visitor('v', 500), 200), true);
  t.equal(await limits.fits(visitor('v', 500), 201), false, 'the visitor');
  await usedIs(limits, owner(1_000), 300, t, 'a refusal of the visitor costs its key nothing');
  t.equal(await limits.fits(visitor('w', 900), 701), false, 'the key refuses');
  t.equal(await limits.fits({ owner: 'key:a#w', budget: micro(900) }, 900), true, 'the other visitor has got it back');
  const free: Identity = { owner: 'key:a#x', holder: owner(1_000) };
  t.equal(await limits.fits(free, 701), false, 'a visitor without a budget is bound by that of its key');
});

t.test('other limits that refuse cost the budget nothing', async (t) => {
  const limits = await bareLimits(t);
  const key: Identity = { ...owner(1_000), tokensPerMinute: 100 };
  end(await limits.reserve(key, 100), 100);
  t.match(await refusal(limits.reserve(key, 50)), { message: /tokens/ });
  await usedIs(limits, owner(1_000), 100, t, 'only the first');
  const poor: Identity = { owner: 'b', budget: micro(10), maxConcurrent: 1 };
  const running = await limits.reserve(poor, 10);
  t.match(await refusal(limits.reserve(poor, 10)), { message: /running/ });
  end(running, 10);
  for (let i = 0; i < 3; i++) t.match(await refusal(limits.reserve(poor, 2)), { message: /budget/ }, 'holds no slot');
});

t.test('a limit of tokens does not lower the estimated cost', async (t) => {
  const limits = await bareLimits(t);
  await limits.reserve({ ...owner(1_000), tokensPerMinute: 100 }, 900);
  await usedIs(limits, owner(1_000), 900, t, 'the whole estimate');
});

t.test('the estimate has the highest price of all calls', async (t) => {
  const limits = await bareLimits(t);
  // One token of input, and 99 of output.
  const cheap = { input: 1, output: 1 };
  await limits.reserve(owner(100_000), 100, [cheap, { input: 2, output: 10 }, cheap]);
  await usedIs(limits, owner(100_000), 992, t, 'at the second price');
  await limits.reserve(owner(100_000), 100, [{ ...cheap, tiers: [{ above: 0, input: 8, output: 1 }] }]);
  await usedIs(limits, owner(100_000), 992 + 107, t, 'at the price of the tier');
});

t.test('an unknown cost is the highest possible one, at least the estimate', async (t) => {
  const limits = await bareLimits(t);
  const prices = [
    { input: 1, output: 1 },
    { input: 2, output: 2 },
  ];
  (await limits.reserve(owner(10_000), 100, prices)).settle(undefined, 0, () => undefined);
  await usedIs(limits, owner(10_000), 200, t, 'the estimate');
  (await limits.reserve(owner(10_000), 100, prices)).settle({ totalTokens: 10 }, 0, () => undefined);
  await usedIs(limits, owner(10_000), 400, t, 'the estimate, although less is counted');
  (await limits.reserve(owner(10_000), 100, prices)).settle({ totalTokens: 1_000 }, 0, () => undefined);
  await usedIs(limits, owner(10_000), 2_400, t, 'what is counted, at the highest price');
  (await limits.reserve(owner(10_000), 100, prices)).settle(undefined, 40_000);
  await usedIs(limits, owner(10_000), 2_600, t, 'the estimate, if another replica ends it');
});

t.test('a free answer is never refused, and costs nothing', async (t) => {
  const { reserve, fits } = await bareLimits(t);
  const free = [{ input: 0, output: 0 }];
  end(await reserve(owner(100), 100), 500);
  end(await reserve(owner(100), 100, free), 0);
  t.equal(await fits(owner(100), 1), false);
  t.equal(await fits(owner(501), 1), true, 'only the first answer was charged');
});

t.test('without known prices nothing is reserved for a caller with a budget', async (t) => {
  const { app, fits } = await bareLimits(t);
  const prompt = { messages: [{ role: 'user' as const, content: 'ab' }] };
  const key: Identity = { ...owner(1_000), maxConcurrent: 1 };
  await t.rejects(app.limits.reserveGeneration(key, prompt));
  await t.rejects(app.limits.reserveGeneration(key, prompt, [{ input: 1 }]));
  t.equal(await fits(key, 1_000), true);
});

t.test('many tiny costs add up, and are rounded up to a billionth of a USD', async (t) => {
  const limits = await bareLimits(t);
  const key = owner(1);
  const settle = async (usd: number) =>
    (await limits.reserve(key, 1, [{ input: 0, output: 0 }])).settle({}, 0, () => usd);
  for (let i = 0; i < 400; i++) await settle(1e-12);
  for (let i = 0; i < 300; i++) await settle(0.1e-9 + 0.2e-9);
  t.equal(
    await limits.fits({ owner: 'key:a', budget: { period: 'day', amount: 1.7e-6 } }, 1),
    true,
    '1,000 left of 1,700',
  );
  t.equal(await limits.fits({ owner: 'key:a', budget: { period: 'day', amount: 1.699e-6 } }, 1), false);
  const exact = { owner: 'b', budget: { period: 'day' as const, amount: 0.3 } };
  (await limits.reserve(exact, 1)).settle({}, 0, () => 0.1 + 0.2);
  t.equal(
    await limits.fits({ ...exact, budget: { period: 'day', amount: 0.300001 } }, 1),
    true,
    'binary noise adds nothing',
  );
});

t.test('huge costs and the largest budget are exact, and no cost is below zero', async (t) => {
  const limits = await bareLimits(t);
  const key: Identity = { owner: 'a', budget: { period: 'month', amount: 1_000_000 } };
  const price = (usd: number) => [{ input: usd * 1e6, output: 0 }];
  (await limits.reserve(key, 1, price(999_999))).settle({}, 0, () => 999_999.999_999);
  t.equal(await limits.fits(key, 1), true, 'a millionth is left');
  t.equal(await limits.fits(key, 2), false);
  (await limits.reserve(key, 1)).settle({}, 0, () => -5);
  t.equal(await limits.fits(key, 2), false, 'nothing is given back');
  (await limits.reserve(key, 1)).settle({}, 0, () => Number.MAX_VALUE);
  t.equal(await limits.fits(key, 1), false);
});

t.test('budgets of past periods are forgotten', async (t) => {
  const setDate = dateAt(t, '2026-11-27T12:00:00Z');
  const { fits, reserve } = await bareLimits(t);
  const of = (name: string): Identity => ({ owner: name, budget: micro(100) });
  end(await reserve(of('old'), 100), 100);
  const fill = async (name: string) => {
    for (let i = 0; i < 1_000; i++) end(await reserve(of(`${name}${i}`), 1), 1);
  };
  setDate('2026-11-28T23:59:59Z');
  await fill('a');
  setDate('2026-11-27T12:00:00Z');
  t.equal(await fits(of('old'), 100), false, 'for a day, ends of answers may be charged');
  setDate('2026-11-29T00:00:00.001Z');
  await fill('b');
  await fill('c');
  t.equal(await fits(of('b0'), 100), false, 'those of today are kept');
  setDate('2026-11-27T12:00:00Z');
  t.equal(await fits(of('old'), 100), true);
});
