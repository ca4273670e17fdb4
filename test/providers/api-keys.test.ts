import t from 'tap';
import { ProviderError, type ProviderErrorCode, type ProviderErrorInit } from '../../providers/errors.ts';
import { createApiKeys, type KeyUse } from '../../providers/wire/api-keys.ts';

/** Tests which API key a call uses, and how long a key that a provider refuses or limits is not used. */

const fault = (code: ProviderErrorCode, init: Partial<ProviderErrorInit> = {}) =>
  new ProviderError(code, { reason: 'r', retryable: true, ...init });
const REFUSED = fault('upstream_rejected', { reason: 'credentials', retryable: false, upstreamStatus: 401 });
const limited = (retryAfterMs?: number) => fault('upstream_rate_limited', { reason: 'http_429', retryAfterMs });

function setUp(...names: string[]) {
  let now = 1_000_000;
  const cooldowns: [string, boolean][] = [];
  const keys = createApiKeys(names, {
    now: () => now,
    onCooldown: (reason, isFirst) => cooldowns.push([reason, isFirst]),
  });
  const use = (): KeyUse => {
    const keyUse = keys.use('m');
    if (keyUse === undefined) throw new Error('no key');
    return keyUse;
  };
  /** Uses the next key, lets the call fail, and returns true if the fault concerns the key. */
  const fail = (error: unknown): boolean => {
    const keyUse = use();
    keyUse.release();
    return keyUse.failed(error);
  };
  const advance = (ms: number) => {
    now += ms;
  };
  return { keys, cooldowns, use, fail, advance };
}

t.test('without keys, calls are made without one', async (t) => {
  const { keys } = setUp();
  t.equal(keys.use('m'), undefined);
  t.equal(keys.cooldown('m'), undefined);
});

t.test('calls use the key with the fewest running calls, then the least recently used one', async (t) => {
  const { use } = setUp('x', 'y', 'z');
  const uses = [use(), use(), use()];
  t.same(
    uses.map(({ key }) => key),
    ['x', 'y', 'z'],
    'each key is used once',
  );
  uses[1]?.release();
  t.equal(use().key, 'y', 'the only idle key');
  uses[2]?.release();
  uses[0]?.release();
  t.equal(use().key, 'x', 'among idle keys the least recently used one');
  t.equal(use().key, 'z');
});

t.test(
  'a refused key is not used for five seconds, then twice as long with each refusal, at most five minutes',
  async (t) => {
    const { keys, fail, advance, use, cooldowns } = setUp('x');
    for (const seconds of [5, 10, 20, 40, 80, 160, 300, 300]) {
      t.equal(fail(REFUSED), true, 'concerns the key');
      t.match(keys.cooldown('m'), { code: 'upstream_rejected', reason: 'credentials', retryable: false });
      t.throws(use, { code: 'upstream_rejected', reason: 'credentials', retryable: false });
      advance(seconds * 1_000 - 1);
      t.ok(keys.cooldown('m'), `not used for ${seconds} s`);
      advance(1);
      t.equal(keys.cooldown('m'), undefined, `used after ${seconds} s`);
    }
    t.same(cooldowns[0], ['credentials', true]);
    t.same(
      cooldowns.slice(1),
      Array(7).fill(['credentials', false]),
      'only the first refusal is reported as the first',
    );
  },
);

t.test('a key that was accepted again begins with five seconds', async (t) => {
  const { keys, fail, advance, use, cooldowns } = setUp('x');
  fail(REFUSED);
  advance(5_000);
  const accepted = use();
  accepted.accepted();
  accepted.release();
  fail(REFUSED);
  advance(5_000);
  t.equal(keys.cooldown('m'), undefined);
  t.same(cooldowns, [
    ['credentials', true],
    ['credentials', true],
  ]);
});

t.test('concurrent refusals of a key count as one', async (t) => {
  const { keys, use, advance, cooldowns } = setUp('x');
  const uses = [use(), use(), use()];
  for (const keyUse of uses) keyUse.failed(REFUSED);
  advance(5_000);
  t.equal(keys.cooldown('m'), undefined);
  t.same(cooldowns, [['credentials', true]]);
});

t.test('these failures concern the key, and others do not', async (t) => {
  const concerns: [string, unknown, boolean][] = [
    ['401', REFUSED, true],
    [
      'an invalid key with status 400',
      fault('upstream_rejected', { reason: 'credentials', upstreamStatus: 400 }),
      true,
    ],
    ['no credit', fault('upstream_rejected', { reason: 'billing', upstreamStatus: 402 }), true],
    ['a quota that does not pass', fault('upstream_rate_limited', { retryable: false }), true],
    ['403', fault('upstream_rejected', { reason: 'credentials', upstreamStatus: 403 }), false],
    ['an invalid question', fault('upstream_rejected', { reason: 'http_400', upstreamStatus: 400 }), false],
    ['a server error', fault('upstream_failed', { retryable: false }), false],
    ['an error of this service', new Error('bug'), false],
  ];
  for (const [name, error, isKeyUnusable] of concerns) {
    const { use, fail, cooldowns } = setUp('x', 'y');
    t.equal(fail(error), isKeyUnusable, name);
    t.equal(setUp('x').fail(error), isKeyUnusable, `${name}: also the only key`);
    const next = [use().key, use().key, use().key];
    t.same(next, isKeyUnusable ? ['y', 'y', 'y'] : ['y', 'x', 'y'], name);
    t.same(cooldowns, isKeyUnusable ? [['credentials', true]] : [], `${name}: report`);
  }
});

t.test('a limited key is not used until its Retry-After has passed, at most five minutes', async (t) => {
  for (const [retryAfterMs, cooldownMs] of [
    [3_000, 3_000],
    [300_000, 300_000],
    [1_763_850_000_000, 300_000],
    [undefined, 1_000],
  ] as const) {
    const { use, fail, advance, cooldowns } = setUp('x', 'y');
    t.equal(fail(limited(retryAfterMs)), true, 'concerns the key');
    t.same(cooldowns, [['rate_limited', true]]);
    const held = use();
    advance(cooldownMs - 1);
    t.equal(use().key, 'y', `not used before ${cooldownMs} ms`);
    advance(1);
    t.equal(use().key, 'x', `used after ${cooldownMs} ms`);
    held.release();
  }
});

t.test('while all keys are limited, the error names the first one to return', async (t) => {
  const { keys, use, fail, advance } = setUp('x', 'y');
  fail(limited(4_000));
  fail(limited(2_500));
  advance(500);
  const expected = { code: 'upstream_rate_limited', reason: 'keys_in_cooldown', retryable: true, retryAfterMs: 2_000 };
  t.match(keys.cooldown('m'), expected);
  t.throws(use, expected);
  advance(2_000);
  t.equal(keys.cooldown('m'), undefined);
  t.equal(use().key, 'y');
});

t.test('one limited key among refused ones makes the error temporary', async (t) => {
  const { keys, fail } = setUp('x', 'y');
  fail(REFUSED);
  fail(limited(2_000));
  t.match(keys.cooldown('m'), { code: 'upstream_rate_limited', retryable: true, retryAfterMs: 2_000 });
});

t.test('a single key without Retry-After has no cooldown: the retry of the call waits', async (t) => {
  const { keys, fail } = setUp('x');
  t.equal(fail(limited()), true);
  t.equal(keys.cooldown('m'), undefined);
  t.equal(keys.another('m', ['x']), undefined, 'but the call does not use it a second time');
  t.equal(fail(limited(2_000)), true, 'with Retry-After it has one');
  t.match(keys.cooldown('m'), { retryAfterMs: 2_000 });
});

t.test('a shorter Retry-After does not end a cooldown', async (t) => {
  const { keys, use, advance } = setUp('x');
  const [first, second] = [use(), use()];
  first.failed(limited(5_000));
  second.failed(limited(1_000));
  advance(4_999);
  t.ok(keys.cooldown('m'));
  advance(1);
  t.equal(keys.cooldown('m'), undefined);
});

t.test('the wait of a cooldown is a whole number of milliseconds', async (t) => {
  const { keys, fail, advance } = setUp('x');
  fail(limited(2_000));
  advance(0.5);
  t.match(keys.cooldown('m'), { retryAfterMs: 2_000 });
});

t.test('an error inside a stream concerns the key as one before it', async (t) => {
  const inBand = (reason: string, retryable: boolean) => fault('upstream_error', { reason, retryable });
  const concerns: [ProviderError, string | undefined][] = [
    [inBand('billing', false), 'credentials'],
    [inBand('credentials', false), 'credentials'],
    [inBand('rate_limited', true), 'rate_limited'],
    [inBand('overloaded', true), undefined],
    [inBand('in_band_request', false), undefined],
    [fault('upstream_truncated'), undefined],
  ];
  for (const [error, reason] of concerns) {
    const { use, cooldowns } = setUp('x', 'y');
    const keyUse = use();
    keyUse.accepted();
    keyUse.release();
    t.equal(keyUse.failed(error), reason !== undefined, error.reason);
    t.same(cooldowns, reason === undefined ? [] : [[reason, true]], `${error.reason}: report`);
    t.same([use().key, use().key, use().key], reason === undefined ? ['y', 'x', 'y'] : ['y', 'y', 'y'], error.reason);
  }
});

t.test('a call goes on with each key that it has not used and that has no cooldown', async (t) => {
  const { keys, use, fail, advance } = setUp('x', 'y', 'z');
  fail(REFUSED); // x
  const first = use();
  t.equal(first.key, 'y');
  t.equal(first.failed(limited()), true);
  const second = keys.another('m', ['y']);
  t.equal(second?.key, 'z', 'x has a cooldown');
  t.equal(keys.another('m', ['y', 'z']), undefined, 'no key is left');
  advance(5_000);
  t.equal(keys.another('m', ['y', 'z'])?.key, 'x', 'the cooldown of x is over');
  second?.release();
  keys.replace(['w']);
  t.equal(keys.another('m', ['y', 'z'])?.key, 'w', 'a new key');
  keys.replace([]);
  t.equal(keys.another('m', ['w']), undefined, 'never goes on without a key');
});

t.test('a rate limit concerns one model, a refusal all models', async (t) => {
  const { keys, fail, advance } = setUp('x');
  fail(limited(2_000));
  t.match(keys.cooldown('m'), { code: 'upstream_rate_limited' });
  t.equal(keys.cooldown('n'), undefined, 'another model');
  advance(2_000);
  fail(REFUSED);
  t.match(keys.cooldown('n'), { code: 'upstream_rejected' }, 'another model');
});

t.test('replaced keys: those that stay keep their cooldowns and running calls, new ones come first', async (t) => {
  const { keys, use, fail, advance, cooldowns } = setUp('x', 'y', 'z');
  fail(REFUSED); // x
  const running = use();
  t.equal(running.key, 'y');
  keys.replace(['x', 'y', 'w', 'w']);
  t.same([use().key, use().key], ['w', 'y'], 'w is idle, y was used before it, x has a cooldown, z is gone');
  t.equal(use().key, 'w', 'one call of w, two of y: the same key twice is one key');
  running.release();
  advance(5_000);
  t.equal(fail(REFUSED), true, 'the cooldown of x ends as before');
  t.same(cooldowns, [
    ['credentials', true],
    ['credentials', false],
  ]);
});

t.test('a failure with a key that was removed starts no cooldown, and another key can be used', async (t) => {
  for (const error of [REFUSED, limited(5_000), limited()]) {
    const { keys, use, cooldowns } = setUp('old');
    const running = use();
    keys.replace(['new']);
    t.equal(running.failed(error), true);
    t.equal(keys.another('m', ['old'])?.key, 'new', 'the call goes on with another key');
    running.release();
    t.same(cooldowns, []);
    t.equal(keys.cooldown('m'), undefined);
    t.equal(use().key, 'new');
  }
});

t.test('keys may be added to none, and all may be removed', async (t) => {
  const { keys, use, fail } = setUp();
  keys.replace(['x']);
  t.equal(use().key, 'x');
  fail(REFUSED);
  t.match(keys.cooldown('m'), { reason: 'credentials' });
  keys.replace([]);
  t.equal(keys.cooldown('m'), undefined);
  t.equal(keys.use('m'), undefined, 'calls are made without a key');
  keys.replace(['x']);
  t.equal(keys.cooldown('m'), undefined, 'a key that comes back has no cooldown');
});
