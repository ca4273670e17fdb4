import { setImmediate as turn } from 'node:timers/promises';
import Fastify, { type FastifyInstance, type FastifyReply } from 'fastify';
import fp from 'fastify-plugin';
import t from 'tap';
import type { Identity } from '../../plugins/auth/identity.ts';
import limitsScope from '../../plugins/limits/scope.ts';
import type { Prompt } from '../../plugins/llm/client.ts';
import type { Usage } from '../../providers/types.ts';
import { until } from '../helper.ts';
import { manualClock } from '../manual-clock.ts';
import { manualDate } from '../manual-date.ts';
import { metricValue } from '../metric-value.ts';
import { bareLimits, refusal } from './bare-limits.ts';

/** Limits of one process, without the rest of the service. Limits of replicas: `replicas.test.ts`. */

const MINUTE_MS = 60_000;

t.test('maxConcurrent bounds the generations of each owner, and a settled one frees its slot once', async (t) => {
  const { app, reserve, fits } = await bareLimits(t);
  const owner: Identity = { owner: 'a', maxConcurrent: 3 };
  const results = await Promise.allSettled(Array.from({ length: 5 }, () => reserve(owner)));
  t.same(
    results.map(({ status }) => status),
    ['fulfilled', 'fulfilled', 'fulfilled', 'rejected', 'rejected'],
    'of five concurrent questions three are accepted',
  );
  t.match(
    await refusal(reserve(owner)),
    {
      statusCode: 429,
      code: 'rate_limited',
      message: 'Too many of your answers are running; retry when one has ended.',
      retryAfterMs: 2_000,
    },
    'the refusal',
  );
  t.equal(await metricValue(app, 'sluice_refusals_total', { reason: 'limit_concurrent' }), 3, 'counted refusals');
  t.equal(await metricValue(app, 'sluice_limiter_degraded_total'), 0, 'one process needs no Redis');
  t.equal(await fits({ owner: 'b', maxConcurrent: 1 }), true, 'another owner has slots of its own');
  const [first] = results;
  if (first?.status === 'fulfilled') first.value.settle(undefined, 0);
  await reserve(owner);
  t.match(await refusal(reserve(owner)), { statusCode: 429 }, 'after one end, one more is accepted and not two');
});

t.test('a client that goes on beyond its limit waits longer and longer for the refusal', async (t) => {
  const time = manualClock();
  const { app, request } = await bareLimits(t, { time });
  const owner: Identity = { owner: 'a', requestsPerMinute: 1 };
  await request(owner);
  for (let i = 0; i < 10; i++) t.equal((await request(owner)).status, 429, 'ten refusals are immediate');
  /** Milliseconds that the next refusal waits. */
  const wait = async () => {
    let isOver = false;
    const answer = request(owner).then(() => {
      isOver = true;
    });
    await until(() => time.pending === 1, 'the refusal waits');
    let ms = 0;
    for (; !isOver && ms < 2_000; ms += 10) {
      time.advance(10);
      for (let i = 0; i < 5 && !isOver; i++) await turn();
    }
    await answer;
    t.equal(time.pending, 0, 'no timer is left');
    return ms;
  };
  t.same([await wait(), await wait(), await wait()], [10, 20, 30]);
  for (let i = 0; i < 100; i++) {
    const answer = request(owner);
    await until(() => time.pending === 1, 'the refusal waits');
    time.advance(1_000);
    await answer;
  }
  t.equal(await wait(), 1_000, 'and a second at most');
  t.equal((await request({ owner: 'b', requestsPerMinute: 1 })).status, 200, 'another owner does not wait');
  const answer = request(owner);
  await until(() => time.pending === 1, 'the refusal waits');
  const closing = app.close();
  await until(() => time.pending === 0, 'a service that closes does not wait');
  await Promise.all([answer, closing]);
});

t.test('a question that is refused for its tokens leaves the slots and the tokens as they were', async (t) => {
  const { app, reserve, fits } = await bareLimits(t);
  const owner: Identity = { owner: 'a', maxConcurrent: 2, tokensPerMinute: 1_000 };
  const running = await reserve(owner, 800);
  for (let i = 0; i < 5; i++) {
    t.match(
      await refusal(reserve(owner, 201)),
      {
        statusCode: 429,
        code: 'rate_limited',
        message: 'Too many tokens in this minute; retry later.',
        retryAfterMs: Number,
      },
      'more than the tokens that are left',
    );
  }
  t.equal(await metricValue(app, 'sluice_refusals_total', { reason: 'limit_tokens' }), 5, 'counted refusals');
  const second = await reserve(owner, 200);
  t.pass('the second slot and the last 200 tokens are free');
  t.match(await refusal(reserve(owner, 1)), { retryAfterMs: 2_000 }, 'both slots are in use');
  running.settle({ totalTokens: 0 }, 0);
  second.settle({ totalTokens: 0 }, 0);
  t.equal(await fits(owner, 1_000), true, 'all tokens are free again');
});

t.test('a question that is refused for concurrency takes no tokens and no slot', async (t) => {
  const { reserve, fits } = await bareLimits(t);
  const owner: Identity = { owner: 'a', maxConcurrent: 1, tokensPerMinute: 1_000 };
  const running = await reserve(owner, 400);
  for (let i = 0; i < 5; i++)
    t.match(await refusal(reserve(owner, 300)), { retryAfterMs: 2_000 }, 'the slot is in use');
  running.settle({ totalTokens: 400 }, 0);
  t.equal(await fits(owner, 600), true, '600 tokens are left');
  t.equal(await fits(owner, 601), false, 'and not more');
  t.equal(await fits(owner, 600), true, 'the one slot is free');
});

t.test('a question larger than tokensPerMinute is accepted, and takes all tokens of the minute', async (t) => {
  const date = manualDate(t);
  const { reserve, fits } = await bareLimits(t);
  const owner: Identity = { owner: 'a', tokensPerMinute: 500 };
  const large = await reserve(owner, 5_000);
  t.equal(await fits(owner, 1), false, 'no token is left');
  large.settle({ totalTokens: 300 }, 0);
  t.equal(await fits(owner, 200), true, 'what it did not use is given back');
  t.equal(await fits(owner, 201), false, 'and not more');
  t.match(
    await refusal(reserve(owner, 5_000)),
    { statusCode: 429 },
    'a second large question waits for the next minute',
  );
  date.advance(MINUTE_MS);
  await reserve(owner, 5_000);
  t.pass('in the next minute it is accepted');
});

const CHARGES: [name: string, usage: Usage | undefined, characters: number, tokens: number][] = [
  ['the total of the provider', { totalTokens: 70, inputTokens: 1, outputTokens: 2 }, 4_000, 70],
  ['input and output tokens of the provider', { inputTokens: 30, outputTokens: 50 }, 4_000, 80],
  ['output tokens of the provider and the length of the prompt', { outputTokens: 50 }, 4_000, 51],
  ['input tokens of the provider and the length of a long answer', { inputTokens: 30 }, 2_000, 530],
  ['the length of prompt and answer, if that is more than the estimate', undefined, 2_001, 502],
  ['the estimate without a count', undefined, 400, 200],
  ['the estimate without a count of the answer', { inputTokens: 30 }, 400, 200],
  ['the estimate without an answer', undefined, 0, 200],
  ['one token, if the provider says so', { totalTokens: 1 }, 400, 1],
  ['more than the estimate', { totalTokens: 900 }, 0, 900],
];
for (const [name, usage, characters, tokens] of CHARGES) {
  t.test(`an ended generation is charged with ${name}`, async (t) => {
    const { reserve, fits } = await bareLimits(t);
    const owner: Identity = { owner: 'a', tokensPerMinute: 1_000 };
    const reservation = await reserve(owner, 200);
    t.equal(await fits(owner, 800), true, 'while it runs it is charged with the estimate');
    t.equal(await fits(owner, 801), false, 'exactly');
    reservation.settle(usage, characters);
    t.equal(await fits(owner, 1_000 - tokens), true, `${tokens} tokens are charged`);
    t.equal(await fits(owner, 1_001 - tokens), false, 'exactly');
  });
}

t.test(
  'a generation that ends in a later minute gives nothing back there, and pays what exceeds the estimate',
  async (t) => {
    const date = manualDate(t);
    const { reserve, fits } = await bareLimits(t);
    const owner: Identity = { owner: 'a', tokensPerMinute: 1_000 };
    const cheap = await reserve(owner, 300);
    const expensive = await reserve(owner, 300);
    date.advance(MINUTE_MS - 1);
    (await reserve(owner, 100)).settle({ totalTokens: 0 }, 0);
    t.equal(await fits(owner, 401), false, 'in the last millisecond of the minute the estimates are charged');
    date.advance(1);
    t.equal(await fits(owner, 1_000), true, 'a new minute');
    cheap.settle({ totalTokens: 10 }, 0);
    const all = await reserve(owner, 1_000);
    t.equal(await fits(owner, 1), false, 'nothing is given back to the new minute');
    all.settle({ totalTokens: 0 }, 0);
    expensive.settle({ totalTokens: 700 }, 0);
    t.equal(await fits(owner, 600), true, '400 tokens above the estimate are charged to the new minute');
    t.equal(await fits(owner, 601), false, 'exactly');
  },
);

t.test('what the minutes have paid off is not given back to a later charge', async (t) => {
  const date = manualDate(t);
  const { reserve, fits } = await bareLimits(t);
  const owner: Identity = { owner: 'a', tokensPerMinute: 1_000 };
  const old = await reserve(owner, 800);
  date.advance(MINUTE_MS);
  await reserve(owner, 600);
  old.settle({ totalTokens: 0 }, 0);
  t.equal(await fits(owner, 400), true);
  t.equal(await fits(owner, 401), false, 'the charge of this minute stands');
});

t.test('use beyond the limit is carried over, and each minute pays off as much as the limit', async (t) => {
  const date = manualDate(t);
  const { reserve, fits } = await bareLimits(t);
  const owner: Identity = { owner: 'a', tokensPerMinute: 1_000 };
  (await reserve(owner, 100)).settle({ totalTokens: 3_500 }, 0);
  t.match(await refusal(reserve(owner, 1)), { retryAfterMs: 3 * MINUTE_MS }, 'three minutes for one token');
  t.match(await refusal(reserve(owner, 500)), { retryAfterMs: 3 * MINUTE_MS }, 'for all that fit then');
  t.match(await refusal(reserve(owner, 501)), { retryAfterMs: 4 * MINUTE_MS }, 'and four minutes for more');
  t.equal(await fits({ ...owner, owner: 'b' }, 1_000), true, 'another owner is not affected');
  date.advance(3 * MINUTE_MS - 1);
  t.match(await refusal(reserve(owner, 500)), { retryAfterMs: 1 }, 'a millisecond before');
  date.advance(1);
  t.equal(await fits(owner, 500), true);
  t.equal(await fits(owner, 501), false, 'exactly');
  date.advance(10 * MINUTE_MS);
  t.equal(await fits(owner, 1_000), true, 'the whole limit');
  await reserve(owner, 1_000);
  t.equal(await fits(owner, 1), false, 'unused tokens of earlier minutes are not saved up');
});

t.test('a clock that is set back prolongs no minute, and one that is set forward pays off once', async (t) => {
  const date = manualDate(t);
  const { reserve, fits } = await bareLimits(t);
  const owner: Identity = { owner: 'a', tokensPerMinute: 1_000 };
  await reserve(owner, 1_000);
  date.advance(-3_600_000);
  t.match(await refusal(reserve(owner, 1)), { retryAfterMs: MINUTE_MS });
  date.advance(MINUTE_MS);
  await reserve(owner, 1_000);
  date.advance(3_600_000);
  await reserve(owner, 1_000);
  t.equal(await fits(owner, 1), false);
});

t.test('owners without a debt are forgotten, others are not', async (t) => {
  const date = manualDate(t);
  const { reserve, fits } = await bareLimits(t);
  const ownerOf = (i: number): Identity => ({ owner: `o${i}`, tokensPerMinute: 1_000 });
  (await reserve(ownerOf(0), 1)).settle({ totalTokens: 5_000 }, 0);
  for (let i = 1; i < 3_000; i++) {
    await reserve(ownerOf(i), 1_000);
    if (i % 500 === 0) date.advance(MINUTE_MS / 2);
  }
  t.equal(await fits(ownerOf(0), 1), false, 'a debt of five minutes');
  t.equal(await fits(ownerOf(2_999), 1), false, 'the last owner');
  t.equal(await fits(ownerOf(1), 1_000), true);
});

t.test('tokens are given back within the minute that was charged, however late in it', async (t) => {
  const date = manualDate(t);
  const { reserve, fits } = await bareLimits(t);
  const owner: Identity = { owner: 'a', tokensPerMinute: 1_000 };
  await reserve(owner, 100);
  date.advance(40_000);
  const late = await reserve(owner, 500);
  date.advance(MINUTE_MS - 40_001);
  late.settle({ totalTokens: 0 }, 0);
  t.equal(await fits(owner, 900), true, 'the tokens are back in the last millisecond');
  t.match(await refusal(reserve(owner, 901)), { retryAfterMs: 1 }, 'Retry-After is the rest of the minute');
});

const IMAGE_TOKENS = 1_024;
const chars = (count: number) => 'x'.repeat(count);
const PROMPTS: [name: string, tokens: number, prompt: Prompt][] = [
  ['four characters of text as one token', 100, { messages: [{ role: 'user', content: chars(398) }] }],
  [
    'all messages',
    300,
    {
      messages: [
        { role: 'system', content: chars(400) },
        { role: 'user', content: chars(798) },
      ],
    },
  ],
  [
    'an image as 1,024 tokens and the text beside it',
    IMAGE_TOKENS + 100,
    {
      messages: [
        {
          role: 'user',
          content: [{ type: 'text', text: chars(398) }, { type: 'image', url: 'data:image/png;base64,AA' } as never],
        },
      ],
    },
  ],
  [
    'reasoning and arguments of tool calls of earlier answers',
    600,
    {
      messages: [
        {
          role: 'assistant',
          content: chars(400),
          reasoning: chars(800),
          toolCalls: [
            { id: '1', name: 'f', arguments: chars(400) },
            { id: '2', name: 'f', arguments: chars(798) },
          ],
        },
      ],
    } as Prompt,
  ],
  ['an earlier answer of text alone', 100, { messages: [{ role: 'assistant', content: chars(398) }] }],
  [
    'the definitions of tools',
    100,
    {
      messages: [{ role: 'user', content: '' }],
      tools: [{ name: 'f', description: chars(400 - '[{"name":"f","description":""}]'.length) }] as never,
    },
  ],
];
for (const [name, tokens, prompt] of PROMPTS) {
  t.test(`the estimate counts ${name}`, async (t) => {
    const { app, fits } = await bareLimits(t);
    const owner: Identity = { owner: 'a', tokensPerMinute: 100_000 };
    const withMax = await app.limits.reserveGeneration(owner, { ...prompt, maxTokens: 1_000 });
    const left = 100_000 - tokens - 1_000;
    t.equal(await fits(owner, left), true, `${tokens} tokens, and maxTokens for the answer`);
    t.equal(await fits(owner, left + 1), false, 'exactly');
    withMax.settle({ totalTokens: 0 }, 0);
    await app.limits.reserveGeneration(owner, prompt);
    t.equal(await fits(owner, 100_000 - tokens - 1_024), true, '1,024 tokens for an answer without maxTokens');
    t.equal(await fits(owner, 100_000 - tokens - 1_023), false, 'exactly');
  });
}

t.test('requestsPerMinute counts each request and says how many are left', async (t) => {
  const date = manualDate(t);
  const { app, request } = await bareLimits(t);
  const owner: Identity = { owner: 'a', requestsPerMinute: 2 };
  const fields = ({ status, headers }: Awaited<ReturnType<typeof request>>) => [
    status,
    headers['ratelimit-limit'],
    headers['ratelimit-remaining'],
    headers['ratelimit-reset'],
    headers['retry-after'],
  ];
  t.same(fields(await request(owner)), [200, '2', '1', '60', undefined], 'the first request');
  date.advance(29_500);
  t.same(fields(await request(owner)), [200, '2', '0', '31', undefined], 'the second request');
  t.same(fields(await request(owner)), [429, '2', '0', '31', '31'], 'a third request is refused');
  t.equal(await metricValue(app, 'sluice_refusals_total', { reason: 'limit_requests' }), 1, 'a counted refusal');
  t.equal((await request({ ...owner, owner: 'b' })).status, 200, 'another owner is not affected');
  date.advance(30_499);
  t.equal((await request(owner)).status, 429, 'still the same minute');
  date.advance(1);
  t.equal((await request(owner)).status, 200, 'the next minute');
  const countTwo = async () => {
    for (let i = 0; i < 2; i++) await app.limits.countRequest(owner, { header() {} } as never);
  };
  t.match(
    await refusal(countTwo()),
    { message: 'Too many requests in this minute; retry later.', code: 'rate_limited' },
    'the refusal',
  );
});

t.test('requests and tokens are counted apart', async (t) => {
  const { reserve, request } = await bareLimits(t);
  const owner: Identity = { owner: 'a', requestsPerMinute: 5, tokensPerMinute: 5 };
  await reserve(owner, 5);
  t.equal((await request(owner)).headers['ratelimit-remaining'], '4', 'tokens are no requests');
});

t.test('a changed limit of an owner applies to the next question', async (t) => {
  const { reserve, fits, request } = await bareLimits(t);
  await reserve({ owner: 'a', tokensPerMinute: 100 }, 100);
  t.equal(await fits({ owner: 'a', tokensPerMinute: 100 }, 1), false, 'the old limit is used up');
  t.equal(await fits({ owner: 'a', tokensPerMinute: 200 }, 100), true, 'the new limit');
  const counted = async (requestsPerMinute: number) => {
    const { status, headers } = await request({ owner: 'a', requestsPerMinute });
    return [status, headers['ratelimit-limit'], headers['ratelimit-remaining']];
  };
  t.same(await counted(7), [200, '7', '6'], 'the first request');
  t.same(await counted(8), [200, '8', '6'], 'a higher limit, of which two are used');
  t.same(await counted(2), [429, '2', '0'], 'a lower limit, which is used up');
  t.same(await counted(4), [200, '4', '0'], 'the refused request counts, too');
  const running = [await reserve({ owner: 'a', maxConcurrent: 2 }), await reserve({ owner: 'a', maxConcurrent: 2 })];
  t.equal(await fits({ owner: 'a', maxConcurrent: 1 }), false, 'a lower number of slots');
  t.equal(await fits({ owner: 'a', maxConcurrent: 3 }), true, 'a higher number of slots');
  for (const reservation of running) reservation.settle(undefined, 0);
  t.equal(await fits({ owner: 'a', maxConcurrent: 1 }), true, 'all slots are free again');
});

t.test('limits are those of the payer, if it is not the owner', async (t) => {
  const { reserve, fits, request } = await bareLimits(t);
  const payers = ['address:192.0.2.1', 'address:192.0.2.2'];
  const [first, second] = payers.map(
    (payer): Identity => ({ owner: 'anybody', payer, requestsPerMinute: 1, tokensPerMinute: 100, maxConcurrent: 1 }),
  ) as [Identity, Identity];
  t.equal((await request(first)).status, 200);
  t.equal((await request(first)).status, 429, 'a second request');
  t.equal((await request(second)).status, 200, 'of another payer');
  const running = await reserve(first, 60);
  t.equal(await fits(first, 1), false, 'a second generation');
  t.equal(await fits(second, 100), true, 'of another payer');
  running.settle({ totalTokens: 60 }, 0);
  t.equal(await fits(first, 40), true, 'its slot is free again');
  t.equal(await fits(first, 41), false, 'its tokens are charged');
});

t.test('a generation that holds no slot frees none', async (t) => {
  const { reserve, fits } = await bareLimits(t);
  const unlimited = await reserve({ owner: 'a', tokensPerMinute: 1_000 });
  const limited: Identity = { owner: 'a', maxConcurrent: 1 };
  await reserve(limited);
  unlimited.settle(undefined, 0);
  t.equal(await fits(limited), false, 'it began before its owner had a limit');
});

t.test('the scope counts each request to a route with access `api` or `ask`, before its handler', async (t) => {
  const app = Fastify();
  const counted: string[] = [];
  const handled: string[] = [];
  const fakes = async (fastify: FastifyInstance) => {
    fastify.decorate('limits', {
      async countRequest({ owner }: Identity, reply: FastifyReply) {
        counted.push(owner);
        if (reply.request.headers['x-refuse']) throw Object.assign(new Error('refused'), { statusCode: 429 });
      },
    } as never);
    fastify.decorateRequest('identity', undefined as never);
    fastify.addHook('onRequest', async (request) => {
      (request as { identity: Identity }).identity = { owner: request.url };
    });
  };
  await app.register(fp(fakes, { name: 'limits' }));
  await app.register(fp(async () => {}, { name: 'auth-scope' }));
  await app.register(limitsScope);
  for (const access of ['api', 'ask', 'read', 'public'] as const) {
    app.get(`/${access}`, { config: { access } }, async ({ url }) => {
      handled.push(url);
      return url;
    });
  }
  app.get('/later', { config: { access: 'ask', countsLater: true } }, async ({ url }) => {
    handled.push(url);
    return url;
  });
  const paths = ['/api', '/ask', '/read', '/public', '/later'];
  for (const path of paths) await app.inject(path);
  t.same(counted, ['/api', '/ask'], 'counted requests');
  t.same(handled, paths, 'all of them are handled');
  const refused = await app.inject({ url: '/api', headers: { 'x-refuse': '1' } });
  t.equal(refused.statusCode, 429, 'a refused request');
  t.equal(handled.length, paths.length, 'does not reach its handler');
});

t.test('an owner without limits is neither refused nor told of limits', async (t) => {
  const { app, reserve, request } = await bareLimits(t);
  const owner: Identity = { owner: 'a' };
  for (let i = 0; i < 50; i++) (await reserve(owner, 1e9)).settle({ totalTokens: 1e9 }, 1e9);
  const { status, headers } = await request(owner);
  t.equal(status, 200);
  t.same(
    Object.keys(headers).filter((name) => name.startsWith('ratelimit')),
    [],
  );
  t.equal(await metricValue(app, 'sluice_refusals_total'), 0, 'no refusal is counted');
});
