import fc from 'fast-check';
import t from 'tap';
import { withUncounted } from '../../plugins/limits/tokens.ts';
import { sumCosts } from '../../plugins/prices/cost.ts';
import type { Attempt } from '../../plugins/usage/attempts.ts';
import { createAttempts } from '../../plugins/usage/attempts.ts';
import { createRecord, type EndedGeneration } from '../../plugins/usage/record.ts';
import { ProviderError } from '../../providers/errors.ts';
import { assertShares } from './capture.ts';

/** Tests the record of a generation: its names, and how its tokens are shared out among its calls. */

const NOW = new Date('2026-11-27T12:00:00.250Z');
const NONE = { input: 0, output: 0 };
const ENDED: EndedGeneration = {
  stream: 's',
  owner: 'key:web',
  model: 'm',
  outcome: 'ok',
  used: { counted: { input: 10, output: 5 }, estimated: NONE },
  cost: undefined,
};
const call = (target: string, changes: Partial<Attempt> = {}): Attempt => ({
  ...{ target, outcome: 'ok', isFree: false, outputTokens: undefined },
  ...changes,
});

t.test('an owner is named by its key, its visitor, or the hash of a subject', async (t) => {
  const names: Record<string, object> = {
    'key:web': { key: 'web' },
    'key:web#hash': { key: 'web', visitor: 'hash' },
    'jwt:hash': { key: '_token', subject: 'hash' },
    'jwt:hash#visitor': { key: '_token', subject: 'hash', visitor: 'visitor' },
    anybody: { key: '_anonymous' },
    other: { key: '_unknown' },
  };
  for (const [owner, expected] of Object.entries(names)) {
    const { key, visitor, subject } = JSON.parse(JSON.stringify(createRecord({ ...ENDED, owner }, NOW)));
    t.same(JSON.parse(JSON.stringify({ key, visitor, subject })), expected, owner);
  }
});

t.test('what is unknown is absent, and a count that cannot be is unknown', async (t) => {
  const written = (ended: EndedGeneration) => JSON.parse(JSON.stringify(createRecord(ended, NOW)));
  t.same(Object.keys(written(ENDED)), [
    ...['usage', 'time', 'stream', 'key', 'model', 'outcome', 'basis', 'inputTokens', 'outputTokens'],
    ...['estimatedInputTokens', 'estimatedOutputTokens', 'attempts'],
  ]);
  t.equal(written(ENDED).time, '2026-11-27T12:00:00.250Z');
  const usage = { cachedTokens: -1, reasoningTokens: Number.POSITIVE_INFINITY, cacheWriteTokens: 0 };
  const { cachedTokens, reasoningTokens, cacheWriteTokens } = written({ ...ENDED, usage });
  t.same([cachedTokens, reasoningTokens, cacheWriteTokens], [undefined, undefined, 0]);
});

t.test('a call that was refused has no tokens, and the call that answered has all', async (t) => {
  const attempts = [call('a/m', { outcome: 'http_503', isFree: true }), call('b/m')];
  const { attempts: records } = createRecord({ ...ENDED, cost: { counted: 0.5, estimated: 0 }, attempts }, NOW);
  t.match(records, [
    { target: 'a/m', outcome: 'http_503', basis: 'counted', inputTokens: 0, outputTokens: 0, cost: undefined },
    { target: 'b/m', outcome: 'ok', basis: 'counted', inputTokens: 10, outputTokens: 5, cost: 0.5 },
  ]);
});

t.test('calls that broke off have their estimates, and the last call what the provider counted', async (t) => {
  const attempts = [
    call('a/m', { outcome: 'reset', outputTokens: 3 }),
    call('b/m', { outcome: 'http_503', isFree: true }),
    call('c/m', { outcome: 'reset', outputTokens: 4 }),
    call('d/m'),
  ];
  const uncounted = [
    { input: 7, output: 3, cost: 0.1 },
    { input: 8, output: 4, cost: 0.2 },
  ];
  const used = { counted: { input: 10, output: 5 }, estimated: { input: 15, output: 7 } };
  const usage = { inputTokens: 25, outputTokens: 12, cost: 0.8 };
  const cost = { counted: 0.5, estimated: 0.3 };
  const record = createRecord({ ...ENDED, used, usage, cost, uncounted, attempts }, NOW);
  t.match(record, { basis: 'both', inputTokens: 25, outputTokens: 12, cost: 0.8, estimatedCost: 0.3 });
  t.match(record.attempts, [
    { target: 'a/m', basis: 'estimated', inputTokens: 7, outputTokens: 3, cost: 0.1 },
    { target: 'b/m', basis: 'counted', inputTokens: 0, outputTokens: 0, cost: undefined },
    { target: 'c/m', basis: 'estimated', inputTokens: 8, outputTokens: 4, cost: 0.2 },
    { target: 'd/m', basis: 'counted', inputTokens: 10, outputTokens: 5, cost: 0.5 },
  ]);
});

t.test('without a count, the calls have their own output, and no cost unless it is that of one call', async (t) => {
  const used = { counted: NONE, estimated: { input: 10, output: 20 } };
  const cost = { counted: 0, estimated: 0.3 };
  const attempts = [call('a/m', { outcome: 'reset', outputTokens: 4 }), call('b/m', { outcome: 'aborted' })];
  const both = createRecord({ ...ENDED, used, cost, attempts }, NOW).attempts;
  t.match(both, [
    { basis: 'estimated', inputTokens: 0, outputTokens: 4, cost: undefined },
    { basis: 'estimated', inputTokens: 10, outputTokens: 16, cost: undefined },
  ]);
  const one = createRecord({ ...ENDED, used, cost, attempts: attempts.slice(1) }, NOW).attempts;
  t.match(one, [{ inputTokens: 10, outputTokens: 20, cost: 0.3 }]);
  t.match(createRecord({ ...ENDED, used, cost }, NOW).attempts, [
    { target: undefined, outcome: 'stream_lost', inputTokens: 10, outputTokens: 20, cost: 0.3 },
  ]);
});

t.test('a call that runs when its generation ends is aborted; one that has failed is not', async (t) => {
  const target = { provider: 'a', model: 'm' };
  const attempts = createAttempts('x'.repeat(9));
  t.match(attempts.list(), [{ target: undefined, outcome: 'stream_lost', outputTokens: 3 }], 'of a dead replica');
  attempts.onStart(target);
  t.match(attempts.list()[1], { target: 'a/m', outcome: 'aborted', isFree: false });
  const refused = new ProviderError('upstream_failed', { reason: 'http_503', retryable: true });
  attempts.onEnd({ target, outcome: 'http_503', fault: refused });
  t.match(attempts.list()[1], { target: 'a/m', outcome: 'http_503', isFree: true });
  attempts.onEnd({ target, outcome: 'http_503', fault: refused, outputTokens: 0 });
  t.match(attempts.list()[2], { isFree: false }, 'it had begun to answer');
  const timeout = new ProviderError('upstream_timeout', { reason: 'first_token_timeout', retryable: true });
  attempts.onEnd({ target, outcome: 'first_token_timeout', fault: timeout });
  t.match(attempts.list()[3], { isFree: false }, 'it may be billed');
  t.equal(attempts.list().length, 4);
});

t.test('whatever the calls were, they have the tokens and the cost of the record together', async (t) => {
  const count = fc.nat(2_000);
  const tokens = fc.record({ input: count, output: count });
  const usd = fc.nat(1_000_000).map((units) => units / 1e9);
  const broken = fc.record({
    call: fc.record({ input: count, output: count, cost: fc.option(usd, { nil: undefined }) }),
    refusedBefore: fc.boolean(),
  });
  const generation = fc.record({
    counted: tokens,
    estimated: tokens,
    breaks: fc.array(broken, { maxLength: 4 }),
    end: fc.constantFrom('ok', 'aborted', 'refused', 'none'),
    isCounted: fc.boolean(),
    cost: fc.option(usd, { nil: undefined }),
  });
  fc.assert(
    fc.property(generation, ({ counted, estimated, breaks, end, isCounted, cost }) => {
      const attempts = breaks.flatMap(({ call: { output }, refusedBefore }) => [
        ...(refusedBefore ? [call('r/m', { isFree: true })] : []),
        call('b/m', { outcome: 'reset', outputTokens: output }),
      ]);
      if (end !== 'none') attempts.push(call('l/m', { outcome: end, isFree: end === 'refused' }));
      const uncounted = isCounted && end === 'ok' ? breaks.map((one) => one.call) : undefined;
      const sums = (uncounted ?? []).reduce(
        ({ input, output }, one) => ({ input: input + one.input, output: output + one.output }),
        NONE,
      );
      const ofBroken = sumCosts((uncounted ?? []).map((one) => one.cost));
      const total = cost === undefined || ofBroken === undefined ? undefined : { counted: cost, estimated: ofBroken };
      const usage = isCounted ? { inputTokens: counted.input, outputTokens: counted.output } : undefined;
      const used = isCounted ? withUncounted({ counted, estimated }, sums) : { counted: NONE, estimated };
      assertShares(t, [createRecord({ ...ENDED, used, cost: total, usage, uncounted, attempts }, NOW)]);
    }),
    { numRuns: 300 },
  );
});
