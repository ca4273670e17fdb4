import { getEventListeners } from 'node:events';
import t from 'tap';
import type { ProviderError } from '../../providers/errors.ts';
import { heapBytes } from '../heap.ts';
import { emptyBudget, settle, setUp } from './client.ts';
import { ANSWER, type FakeProvider, FINISH, fake, fault, NOT_FOUND, SERVER_ERROR, textPart } from './fake-provider.ts';

/** Tests what follows a failure before the first content: a retry, the next target, or the end. */

t.test('a failed target is retried once, after a delay with jitter', async (t) => {
  const a = fake('a', [[SERVER_ERROR], ANSWER]);
  const { generate, clock, metric } = setUp([a]);
  const { text, called, finish, begun } = await generate();
  t.equal(text, 'whole');
  t.same(called, ['a', 'a']);
  t.same(finish, FINISH, 'the finish part names no targets if only one has answered');
  t.equal(begun, 1, 'the first part is reported once');
  t.equal(clock.now(), 250, 'half of 500 ms for a random number of 0.5');
  t.equal(clock.pending, 0, 'no timer is pending');
  t.equal(await metric('sluice_retries_total', { provider: 'a' }), 1);
});

t.test('a failed target is followed by the next target, without a delay and without a retry', async (t) => {
  const a = fake('a', [[SERVER_ERROR]]);
  const b = fake('b', [ANSWER]);
  const { generate, metric, clock } = setUp([a, b]);
  const { text, called, finish } = await generate();
  t.equal(text, 'whole');
  t.same(called, ['a', 'b']);
  t.same(finish, FINISH);
  t.equal(clock.now(), 0, 'nothing has waited');
  t.equal(await metric('sluice_retries_total'), 0);
  t.equal(await metric('sluice_fallbacks_total', { from: 'a', to: 'b' }), 1);
});

t.test('the last target of a route is tried twice, then its error is reported', async (t) => {
  const last = fault('upstream_failed', { reason: 'last' });
  const { generate, targets } = setUp([fake('a', [[SERVER_ERROR]]), fake('b', [[SERVER_ERROR], [last]])]);
  const { called, fault: reported, finish } = await generate();
  t.same(called, ['a', 'b', 'b']);
  t.equal(reported, last);
  t.equal(finish, undefined);
  t.match(targets.states(), [{ provider: 'a' }, { provider: 'b' }], 'both targets have failures');
});

t.test('the wait before a retry is Retry-After plus jitter, and at most ten seconds', async (t) => {
  const cases: [number | undefined, number | undefined][] = [
    [undefined, 250],
    [0, 0],
    [1, 251],
    [4_000, 4_250],
    [10_000, 10_250],
    [10_001, undefined],
  ];
  for (const [retryAfterMs, waitMs] of cases) {
    const limited = fault('upstream_rate_limited', { retryAfterMs });
    const { start, clock } = setUp([fake('a', [[limited], ANSWER])]);
    const running = await start();
    const what = `Retry-After of ${retryAfterMs} ms`;
    if (waitMs === undefined) {
      t.equal(running.outcome.fault, limited, `${what} is not waited for`);
      continue;
    }
    t.equal(clock.pending, 1, `${what}: waits`);
    if (waitMs > 0) {
      clock.advance(waitMs - 1);
      await settle();
      t.same(running.outcome.called, ['a'], `${what}: not called before ${waitMs} ms`);
    }
    clock.advance(waitMs > 0 ? 1 : 0);
    await settle();
    t.same(running.outcome.called, ['a', 'a'], `${what}: called after ${waitMs} ms`);
    t.equal(running.outcome.text, 'whole');
  }
});

t.test('the error decides between the next target and the end', async (t) => {
  const rejected = (upstreamStatus: number, init: object = {}) =>
    fault('upstream_rejected', { retryable: false, upstreamStatus, ...init });
  const cases: [string, Error, string[]][] = [
    ['an invalid key', rejected(401, { reason: 'credentials' }), ['a', 'b']],
    ['a model that the provider does not have', rejected(404), ['a', 'b']],
    ['an account without credit', rejected(400, { reason: 'billing' }), ['a', 'b']],
    ['an invalid question', rejected(400), ['a']],
    ['a question that is too large', rejected(413), ['a']],
    ['an unprocessable question', rejected(422), ['a']],
    ['a question that is too long for the model', rejected(400, { refusal: 'context_length_exceeded' }), ['a', 'b']],
    ['an unknown model with status 400', rejected(400, { refusal: 'model_not_found' }), ['a', 'b']],
    ['a parameter that the model does not have', rejected(400, { refusal: 'unsupported_parameter' }), ['a', 'b']],
    ['an invalid parameter', rejected(422, { refusal: 'invalid_parameter' }), ['a']],
    ['a blocked question', rejected(400, { refusal: 'content_filter' }), ['a']],
    ['a conflict', rejected(409, { retryable: true }), ['a', 'b']],
    ['a rate limit', fault('upstream_rate_limited'), ['a', 'b']],
    ['a rate limit that does not pass', fault('upstream_rate_limited', { retryable: false }), ['a', 'b']],
    ['a server error that does not pass', fault('upstream_failed', { retryable: false }), ['a', 'b']],
    ['an unreachable server', fault('upstream_unreachable'), ['a', 'b']],
    ['an invalid response', fault('upstream_protocol', { retryable: false }), ['a', 'b']],
    ['an empty answer', fault('upstream_truncated'), ['a', 'b']],
    ['an error in the stream', fault('upstream_error'), ['a', 'b']],
    ['no connection in time', fault('upstream_timeout', { stage: 'connect' }), ['a', 'b']],
    ['no headers in time', fault('upstream_timeout', { stage: 'headers' }), ['a', 'b']],
    ['no first token in time', fault('upstream_timeout', { stage: 'first_token' }), ['a', 'b']],
    ['an answer that takes too long', fault('upstream_timeout', { stage: 'total' }), ['a']],
    ['an error of this service', new Error('bug'), ['a']],
  ];
  for (const [name, error, order] of cases) {
    const { generate } = setUp([fake('a', [[error]]), fake('b', [ANSWER])]);
    const { called, text, fault: reported } = await generate();
    t.same(called, order, name);
    if (order.includes('b')) t.equal(text, 'whole', `${name}: the next target answers`);
    else t.equal(reported, error, `${name}: the error is reported`);
  }
});

t.test('totalMs covers all attempts and delays', async (t) => {
  const deadlines = { firstTokenMs: 60_000, idleMs: 30_000, thinkingMs: 300_000, totalMs: 5_000 };
  const slow = (retryAfterMs: number) => fault('upstream_rate_limited', { retryAfterMs });
  const fits = setUp([fake('a', [[slow(4_749)], ANSWER])], { route: { deadlines } });
  const running = await fits.start();
  fits.clock.advance(4_999);
  await settle();
  t.equal(running.outcome.text, 'whole', 'a retry just before the deadline');
  const late = slow(4_750);
  const exceeds = setUp([fake('a', [[late], ANSWER])], { route: { deadlines } });
  t.equal((await exceeds.generate()).fault, late, 'no retry whose delay reaches totalMs');
  t.equal(exceeds.clock.now(), 0, 'the error is reported immediately');

  const route = { deadlines: { ...deadlines, totalMs: 1_000 } };
  const hanging = setUp([fake('a', [[SERVER_ERROR], ['silence']])], { route });
  hanging.clock.advance(77_000);
  const { fault: reported, called } = await hanging.generate();
  t.match(reported, { code: 'upstream_timeout', stage: 'total' });
  t.same(called, ['a', 'a'], 'nothing is called after the deadline');
  t.equal(hanging.clock.now(), 78_000);
  t.equal(hanging.clock.pending, 0, 'no timer is pending');
});

t.test('an abort ends the delay before a retry', async (t) => {
  const { start, clock } = setUp([fake('a', [[fault('upstream_failed', { retryAfterMs: 9_000 })], ANSWER])]);
  const running = await start();
  t.equal(clock.pending, 1, 'waits');
  running.abort();
  t.match(running.outcome.fault, { name: 'AbortError' }, 'ends immediately');
  t.equal(clock.pending, 0, 'no timer is pending');
  clock.advance(20_000);
  await settle();
  t.same(running.outcome.called, ['a'], 'no call follows');
});

t.test('a generation leaves no listener on its signal', async (t) => {
  const { signal } = new AbortController();
  const retried = setUp([fake('a', [[SERVER_ERROR]]), fake('b', [[textPart('x'), FINISH]])]);
  t.equal((await retried.generate({ signal })).text, 'x');
  const failed = setUp([fake('a', [[SERVER_ERROR]])]);
  t.equal((await failed.generate({ signal })).fault, SERVER_ERROR);
  t.same(getEventListeners(signal, 'abort'), []);
});

t.test('an abort during a call is reported with its reason, and nothing is called again', async (t) => {
  const { start, clock } = setUp([fake('a', [['silence']]), fake('b', [ANSWER])]);
  const running = await start();
  running.abort();
  await settle();
  t.match(running.outcome.fault, { name: 'AbortError' });
  t.same(running.outcome.called, ['a']);
  t.equal(clock.pending, 0);
  const b = fake('b', [ANSWER]);
  const controller = new AbortController();
  const replaced = setUp([fake('a', [['silence']]), b]);
  const stopping = await replaced.start({ signal: controller.signal });
  controller.abort(SERVER_ERROR);
  await settle();
  t.equal(stopping.outcome.fault, SERVER_ERROR, 'a reason that looks like an error of the provider');
  t.equal(b.requests.length, 0);
  const before = setUp([fake('a', [ANSWER])]);
  const reason = new Error('stopped');
  t.equal((await before.generate({ signal: AbortSignal.abort(reason) })).fault, reason, 'aborted before the call');
});

t.test('the retry budget allows ten retries, plus one for ten generations', async (t) => {
  const a = fake('a', [[fault('upstream_rejected', { retryable: true, upstreamStatus: 409, retryAfterMs: 0 })]]);
  const { generate, metric } = setUp([a]);
  for (let i = 0; i < 40; i++) await generate();
  // Each generation advances the clock by a quarter of a second while it retries.
  const retries = await metric('sluice_retries_total');
  t.ok(retries >= 13 && retries <= 15, `${retries} retries of 40`);
  t.equal(a.requests.length, 40 + retries);
  t.equal(await metric('sluice_retries_denied_total'), 40 - retries);
});

t.test('an empty budget denies a retry, which is counted, and no fallback', async (t) => {
  const alone = setUp([fake('a', [[SERVER_ERROR]])]);
  emptyBudget(alone.budget);
  t.match(await alone.generate(), { called: ['a'], fault: SERVER_ERROR });
  t.equal(await alone.metric('sluice_retries_denied_total'), 1);
  const { generate, metric, budget } = setUp([fake('a', [[SERVER_ERROR]]), fake('b', [ANSWER])]);
  emptyBudget(budget);
  t.match(await generate(), { called: ['a', 'b'], text: 'whole' });
  t.equal(await metric('sluice_retries_denied_total'), 0);
  t.equal(await metric('sluice_fallbacks_total', { from: 'a', to: 'b' }), 1);
});

t.test('a fallback after an immediate rejection does not use the retry budget', async (t) => {
  const { generate, metric, budget } = setUp([fake('a', [[NOT_FOUND]]), fake('b', [ANSWER])]);
  emptyBudget(budget);
  t.equal((await generate()).text, 'whole');
  t.equal(await metric('sluice_retries_denied_total'), 0);
  t.equal(await metric('sluice_fallbacks_total', { from: 'a', to: 'b' }), 1);
});

t.test('a retry goes to the next target if the failed one cannot be used any more', async (t) => {
  let isInCooldown = false;
  const cooldown = fault('upstream_rate_limited', { reason: 'keys_in_cooldown' });
  const a: FakeProvider = {
    ...fake('a', [[fault('upstream_rate_limited')]]),
    cooldown: () => (isInCooldown ? cooldown : undefined),
  };
  const b: FakeProvider = {
    ...fake('b', [[SERVER_ERROR], ANSWER]),
    cooldown: () => (isInCooldown ? undefined : cooldown),
  };
  const { start, generate, clock, metric } = setUp([a, b]);
  const running = await start();
  t.same(running.outcome.called, ['a'], 'the next target is in cooldown: the first one is retried');
  isInCooldown = true;
  for (let i = 0; i < 4; i++) {
    clock.advance(250);
    await settle();
  }
  t.same(running.outcome.called, ['a', 'b', 'b'], 'the next target has a retry of its own');
  t.equal(running.outcome.text, 'whole');
  t.equal(await metric('sluice_fallbacks_total', { from: 'a', to: 'b' }), 1);
  t.equal(await metric('sluice_retries_total', { provider: 'a' }), 0);
  t.equal(await metric('sluice_retries_total', { provider: 'b' }), 1);

  isInCooldown = false;
  const limited = fault('upstream_rate_limited');
  const single = setUp([{ ...a, ...fake('a', [[limited]]), cooldown: a.cooldown as never }]);
  const alone = await single.start();
  isInCooldown = true;
  single.clock.advance(250);
  t.equal(alone.outcome.fault, limited, 'without another target the first error is reported');
  isInCooldown = true;
  t.equal((await generate()).text, 'whole');
});

t.test('a target whose keys are all in cooldown is skipped without cost to the retry budget', async (t) => {
  const refused = fault('upstream_rejected', { reason: 'credentials' });
  const a: FakeProvider = { ...fake('a', [ANSWER]), cooldown: () => refused };
  const { generate, metric, budget } = setUp([a, fake('b', [ANSWER])]);
  emptyBudget(budget);
  t.same((await generate()).called, ['b']);
  t.equal((await metric('sluice_retries_denied_total')) + (await metric('sluice_fallbacks_total')), 0);
  t.equal((await setUp([a]).generate()).fault, refused, 'the error of the cooldown is reported');
});

t.test('after the first content no target is called again', async (t) => {
  const a = fake('a', [[textPart('partial '), SERVER_ERROR]]);
  const b = fake('b', [ANSWER]);
  const { generate } = setUp([a, b]);
  const { text, fault: reported } = await generate();
  t.equal(text, 'partial ');
  t.equal(reported, SERVER_ERROR);
  t.equal(b.requests.length, 0, 'the second target is not called');
});

t.test('each target gets its own model and the prompt of the client', async (t) => {
  const a = fake('a', [[NOT_FOUND]]);
  const b = fake('b', [ANSWER]);
  const { generate } = setUp([a, b], {
    route: {
      targets: [
        { provider: 'a', model: 'small' },
        { provider: 'b', model: 'large' },
      ],
    },
    span: { headers: { traceparent: '00-1' }, firstToken() {}, end() {} },
  });
  const prompt = { messages: [{ role: 'user', content: 'Why?' } as const], temperature: 0.5 };
  await generate({ prompt });
  const traceHeaders = { traceparent: '00-1' };
  t.same(a.requests, [{ ...prompt, model: 'small', traceHeaders }]);
  t.same(b.requests, [{ ...prompt, model: 'large', traceHeaders }]);
});

t.test('a provider that throws when it is called is reported like any other error', async (t) => {
  const error: ProviderError = fault('upstream_rejected', { retryable: false, upstreamStatus: 400 });
  const a: FakeProvider = {
    ...fake('a', []),
    stream() {
      throw error;
    },
  };
  t.equal((await setUp([a]).generate()).fault, error);
});

t.test('a rate-limited target comes behind the others for a second', async (t) => {
  for (const limited of [
    fault('upstream_rate_limited'),
    fault('upstream_error', { reason: 'rate_limited', retryable: true }),
  ]) {
    const { generate, clock } = setUp([fake('a', [[limited], ANSWER]), fake('b', [ANSWER])]);
    t.same((await generate()).called, ['a', 'b'], 'the next target is called at once');
    t.equal(clock.now(), 0);
    t.same((await generate()).called, ['b'], 'the next question skips it');
    clock.advance(999);
    t.same((await generate()).called, ['b']);
    clock.advance(1);
    t.same((await generate()).called, ['a'], 'after a second it is first again');
  }
  const alone = setUp([fake('a', [[fault('upstream_rate_limited', { retryable: false })], ANSWER])]);
  await alone.generate();
  t.equal((await alone.generate()).text, 'whole', 'without another target it is called all the same');
});

t.test(
  'a shortage in this process is neither retried nor answered by another target, and counts against none',
  async (t) => {
    const overloaded = Object.assign(new Error('no descriptor'), { code: 'overloaded', retryable: true });
    const a = fake('a', [[overloaded]]);
    const b = fake('b', [ANSWER]);
    const { generate, targets } = setUp([a, b]);
    for (let i = 1; i <= 6; i++) {
      const { called, fault: reported } = await generate();
      t.same(called, ['a']);
      t.equal(reported, overloaded);
    }
    t.same(targets.states(), []);
    const continued = setUp([fake('a', [[textPart('x'), overloaded]]), b], {
      route: { onMidStreamFailure: 'continue' },
    });
    t.equal((await continued.generate()).fault, overloaded);
    t.equal(b.requests.length, 0);
  },
);

t.test('a retry waits until a key of the target can be used', async (t) => {
  const limited = fault('upstream_rate_limited');
  const cases: [string, Error, number | undefined][] = [
    ['soon', fault('upstream_rate_limited', { retryAfterMs: 1_000 }), 1_250],
    ['late', fault('upstream_rate_limited', { retryAfterMs: 20_000 }), undefined],
    ['never', fault('upstream_rejected', { reason: 'credentials', retryable: false }), undefined],
  ];
  for (const [name, cooldown, waitMs] of cases) {
    let isInCooldown = false;
    const a: FakeProvider = {
      ...fake('a', [[limited], ANSWER]),
      cooldown: () => (isInCooldown ? cooldown : undefined),
    };
    const { start, clock } = setUp([a]);
    const starting = start();
    isInCooldown = true;
    const { outcome } = await starting;
    if (waitMs === undefined) {
      t.equal(outcome.fault, limited, `${name}: not waited for`);
      continue;
    }
    clock.advance(waitMs - 1);
    isInCooldown = false;
    await settle();
    t.same(outcome.called, ['a'], `${name}: not before ${waitMs} ms`);
    clock.advance(1);
    await settle();
    t.match(outcome, { called: ['a', 'a'], text: 'whole' });
  }
});

t.test('a rate limit of one model leaves another model of the provider free', async (t) => {
  let limitedModel = '';
  const a: FakeProvider = {
    ...fake('a', [[fault('upstream_rate_limited', { retryAfterMs: 20_000 })], ANSWER]),
    cooldown: (model) => (model === limitedModel ? fault('upstream_rate_limited') : undefined),
  };
  const targets = [
    { provider: 'a', model: 'big' },
    { provider: 'a', model: 'small' },
  ] as const;
  const { generate } = setUp([a], { route: { targets } });
  t.match(await generate(), { called: ['a', 'a'], text: 'whole' });
  limitedModel = 'big';
  await generate();
  t.same(
    a.requests.map(({ model }) => model),
    ['big', 'small', 'small'],
  );
});

t.test('the prompt of an answer that nobody continues is garbage after the first part', async (t) => {
  for (const onMidStreamFailure of ['error', 'continue'] as const) {
    const parts = fake('a', [[textPart('x'), 'silence']]);
    // The generator of this provider does not hold the request.
    const a: FakeProvider = { ...parts, stream: (_, signal) => parts.stream({ model: 'm', messages: [] }, signal) };
    const { client, route } = setUp([a], { route: { onMidStreamFailure } });
    const sink = { onTarget() {}, onFirstPart() {}, onPart: () => undefined, onFault() {} };
    const controller = new AbortController();
    const ask = () => {
      const messages = [{ role: 'user', content: 'q' } as const];
      client.generate(route, { messages }, sink, controller.signal);
      return new WeakRef(messages);
    };
    const prompt = ask();
    await settle();
    heapBytes();
    t.equal(prompt.deref() === undefined, onMidStreamFailure === 'error', onMidStreamFailure);
    controller.abort();
  }
});

t.test('an error of a sink ends the answer, and is never thrown at a timer or a promise', async (t) => {
  const bug = new Error('bug');
  const { client, route, clock, errors, targets } = setUp([fake('a', [[SERVER_ERROR], ANSWER])], { maxConcurrent: 1 });
  const faults: unknown[] = [];
  let calls = 0;
  const sink = {
    onTarget() {
      calls += 1;
      if (calls === 2) throw bug;
    },
    onFirstPart() {},
    onPart: () => undefined,
    onFault(fault: unknown) {
      faults.push(fault);
      throw new Error('cannot be reported');
    },
  };
  const prompt = { messages: [{ role: 'user', content: 'q' } as const] };
  client.generate(route, prompt, sink, new AbortController().signal);
  await settle();
  t.doesNotThrow(() => clock.advance(250), 'the retry throws inside a timer');
  t.same(faults, [bug], 'reported once');
  t.match(errors, [{ message: 'cannot be reported' }], 'and the error of the report is handed to the log');
  t.ok(targets.reserve(route), 'the place is free');
});

t.test('an error while the next step is chosen ends the answer', async (t) => {
  const bug = new Error('bug');
  let questions = 0;
  const b: FakeProvider = {
    ...fake('b', [ANSWER]),
    unsupported() {
      questions += 1;
      throw bug;
    },
  };
  const after = setUp([fake('a', [[SERVER_ERROR]]), b]);
  t.equal((await after.generate()).fault, bug, 'after a failed call');
  t.equal(questions, 1);

  let isBusy = true;
  const busy: FakeProvider = { ...b, cooldown: () => (isBusy ? fault('upstream_rate_limited') : undefined) };
  const a: FakeProvider = {
    ...fake('a', [[SERVER_ERROR]]),
    unsupported() {
      if (!isBusy) throw bug;
      return undefined;
    },
  };
  const waiting = setUp([a, busy]);
  const running = await waiting.start();
  isBusy = false;
  t.doesNotThrow(() => waiting.clock.advance(250), 'in a timer');
  t.equal(running.outcome.fault, bug, 'after the wait for a retry');
});

t.test(
  'a call that met a stale connection is repeated at once, free of the budget, before another target',
  async (t) => {
    const stale = fault('upstream_unreachable', { reason: 'stale_connection', retryAfterMs: 0 });
    const { generate, budget, clock } = setUp([fake('a', [[stale], ANSWER]), fake('b', [ANSWER])]);
    emptyBudget(budget);
    t.match(await generate(), { called: ['a', 'a'], text: 'whole' });
    t.equal(clock.now(), 250, 'one turn of the clock of the test');
  },
);
