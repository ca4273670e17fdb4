import t from 'tap';
import type { Identity } from '../../plugins/auth/identity.ts';
import { manualDate } from '../manual-date.ts';
import { metricValue } from '../metric-value.ts';
import { noRedis } from '../redis.ts';
import { type BareLimits, bareLimits, promptOf, refusal } from './bare-limits.ts';
import { startReplicas } from './replicas.ts';

/** Questions that a ticket may start: each counts once, on whatever replica. */

const STREAM_TTL_MS = 300_000;

const ticketOf = (questions: number, nonce = 'n', rest: Partial<Identity> = {}): Identity => ({
  owner: 'key:a',
  ticket: { nonce, questions, expires: Date.now() + 3_600_000 },
  ...rest,
});

/** Returns true if the ticket may start the question. */
async function starts({ app }: BareLimits, identity: Identity, question: string): Promise<boolean> {
  try {
    (await app.limits.reserveGeneration(identity, promptOf(1), undefined, question)).settle({ totalTokens: 0 }, 0);
    return true;
  } catch (error) {
    const { statusCode, isTicketUsed } = error as Record<string, unknown>;
    if (statusCode === 401 && isTicketUsed === true) return false;
    throw error;
  }
}

for (const where of ['memory', 'Redis'] as const) {
  t.test(`${where}: a ticket starts its questions and no more`, { skip: where === 'Redis' && noRedis }, async (t) => {
    const { a, b } = where === 'Redis' ? await startReplicas(t) : await one(t);
    const ticket = ticketOf(3);
    t.equal(await starts(a, ticket, 'q1'), true);
    t.equal(await starts(b, ticket, 'q1'), true, 'the same question again');
    t.equal(await starts(b, ticket, 'q2'), true);
    t.equal(await starts(a, ticket, 'q3'), true);
    t.equal(await starts(b, ticket, 'q4'), false, 'a fourth one');
    t.equal(await starts(a, ticket, 'q2'), true, 'one of the three');
    t.equal(await starts(a, ticketOf(1, 'other'), 'q4'), true, 'another ticket');
    t.equal(await starts(b, ticketOf(1, 'other'), 'q5'), false);
    const { owner } = ticket;
    t.equal(await starts(a, { owner }, 'q9'), true, 'no ticket');
  });
}

t.test('a question counts again once its stream cannot be kept any more', async (t) => {
  const date = manualDate(t);
  const limits = await bareLimits(t);
  const ticket = ticketOf(2);
  t.equal(await starts(limits, ticket, 'q'), true);
  date.advance(STREAM_TTL_MS - 1);
  t.equal(await starts(limits, ticket, 'q'), true, 'the stream may be kept');
  date.advance(1);
  t.equal(await starts(limits, ticket, 'q'), true, 'the second question of the ticket');
  date.advance(STREAM_TTL_MS);
  t.equal(await starts(limits, ticket, 'q'), false, 'a third one');
});

t.test('the same in Redis, which keeps the count as long as the ticket is valid', { skip: noRedis }, async (t) => {
  const { redis, a } = await startReplicas(t);
  const ticket = ticketOf(2);
  t.equal(await starts(a, ticket, 'q'), true);
  const key = 'p:ticket:n';
  const ttl = await redis.client.pttl(key);
  t.ok(ttl > 3_500_000 && ttl <= 3_600_000, `an hour: ${ttl}`);
  const [id = ''] = (await redis.client.hkeys(key)).filter((name) => name !== 'count');
  const past = async () => redis.client.hset(key, id, Date.now() - STREAM_TTL_MS - 1_000);
  await past();
  t.equal(await starts(a, ticket, 'q'), true, 'the second question of the ticket');
  await past();
  t.equal(await starts(a, ticket, 'q'), false, 'a third one');
});

t.test('a limit that refuses a question leaves the ticket, and a used ticket leaves the limits', async (t) => {
  const limits = await bareLimits(t);
  const ticket = ticketOf(1, 'n', { maxConcurrent: 1, tokensPerMinute: 10 });
  const running = await limits.reserve({ owner: 'key:a', maxConcurrent: 1 });
  t.match(await refusal(starts(limits, ticket, 'q1')), { statusCode: 429 });
  running.settle({ totalTokens: 0 }, 0);
  t.equal(await starts(limits, ticket, 'q2'), true, 'the refused question has not used the ticket');
  for (let i = 0; i < 3; i++) t.equal(await starts(limits, ticket, 'q3'), false);
  t.equal(await limits.fits({ owner: 'key:a', maxConcurrent: 1, tokensPerMinute: 10 }, 10), true, 'nothing is held');
});

t.test('without Redis each replica grants its share of a ticket', { skip: noRedis }, async (t) => {
  const { a, b, stopRedis } = await startReplicas(t);
  await stopRedis();
  const count = async (replica: BareLimits, ticket: Identity) => {
    let started = 0;
    for (let i = 0; i < 5; i++) if (await starts(replica, ticket, `q${i}`)) started += 1;
    return started;
  };
  t.same([await count(a, ticketOf(4)), await count(b, ticketOf(4))], [2, 2]);
  t.same([await count(a, ticketOf(1, 'o')), await count(b, ticketOf(1, 'o'))], [1, 1]);
  t.ok(((await metricValue(a.app, 'sluice_limiter_degraded_total')) ?? 0) > 0, 'sluice_limiter_degraded_total');
});

async function one(t: Parameters<typeof bareLimits>[0]) {
  const limits = await bareLimits(t);
  return { a: limits, b: limits };
}
