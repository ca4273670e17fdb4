import Fastify, { type FastifyInstance } from 'fastify';
import type { Test } from 'tap';
import type { Identity } from '../../plugins/auth/identity.ts';
import clock, { type Clock } from '../../plugins/clock.ts';
import type { ModelPrice } from '../../plugins/config/price-file.ts';
import errors from '../../plugins/http/errors.ts';
import limits from '../../plugins/limits/index.ts';
import type { Prompt } from '../../plugins/llm/client.ts';
import metrics from '../../plugins/metrics/index.ts';
import redisPlugin from '../../plugins/redis/index.ts';

const UNBOUNDED = { total: Number.POSITIVE_INFINITY, perOwner: Number.POSITIVE_INFINITY };

/** The limits without the rest of the service. */
export interface BareLimits {
  readonly app: FastifyInstance;
  /** Reserves a generation of `tokens` estimated tokens. A token costs a millionth of a USD, unless `prices` say otherwise. */
  reserve(
    identity: Identity,
    tokens?: number,
    prices?: readonly ModelPrice[],
  ): ReturnType<FastifyInstance['limits']['reserveGeneration']>;
  /** Returns true if a generation of `tokens` tokens would be accepted now. Leaves the limits as they are. */
  fits(identity: Identity, tokens?: number): Promise<boolean>;
  /** Counts a request, and returns the status and the headers that its client gets. */
  request(identity: Identity): Promise<{ status: number; headers: Record<string, unknown> }>;
}

export interface BareLimitsOptions {
  readonly redis?: { readonly url: string; readonly prefix: string };
  readonly expectedReplicas?: number;
  readonly time?: Clock;
}

export async function bareLimits(t: Test, options: BareLimitsOptions = {}): Promise<BareLimits> {
  const { redis, expectedReplicas = 1, time } = options;
  const app = Fastify();
  await app.register(clock, { clock: time });
  await app.register(metrics, { hasRedis: redis !== undefined });
  await app.register(errors);
  await app.register(redisPlugin, { redis: redis && { ...redis, required: false } });
  await app.register(limits, { expectedReplicas, streamTtlMs: 300_000, prompts: UNBOUNDED, readers: UNBOUNDED });
  let identity: Identity = { owner: 'o' };
  app.get('/', async (_, reply) => {
    await app.limits.countRequest(identity, reply);
    return 'ok';
  });
  await app.ready();
  t.teardown(() => app.close());

  const reserve = (who: Identity, tokens = 1, prices: readonly ModelPrice[] = [{ input: 1, output: 1 }]) =>
    app.limits.reserveGeneration(who, promptOf(tokens), prices);
  return {
    app,
    reserve,
    async fits(who, tokens) {
      try {
        (await reserve(who, tokens)).settle({ totalTokens: 0 }, 0, () => 0);
        return true;
      } catch (error) {
        if ((error as { statusCode?: number }).statusCode === 429) return false;
        throw error;
      }
    },
    async request(who) {
      identity = who;
      const { statusCode: status, headers } = await app.inject('/');
      return { status, headers };
    },
  };
}

/** Returns a prompt that is estimated at `tokens` tokens, of which its text is one. */
export function promptOf(tokens: number): Prompt {
  return { messages: [{ role: 'user', content: 'ab' }], maxTokens: tokens - 1 };
}

/** Returns the error of a call that is refused. Throws if it is not. */
export async function refusal(call: Promise<unknown>): Promise<object> {
  try {
    await call;
  } catch (error) {
    const { statusCode, code, message, retryAfterMs } = error as Record<string, unknown>;
    return { statusCode, code, message, retryAfterMs };
  }
  throw new Error('the call is not refused');
}
