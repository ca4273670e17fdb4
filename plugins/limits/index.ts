import type { FastifyInstance, FastifyReply } from 'fastify';
import fp from 'fastify-plugin';
import { RateLimiterMemory, RateLimiterRes } from 'rate-limiter-flexible';
import type { Usage } from '../../providers/types.ts';
import type { Identity } from '../auth/identity.ts';
import type { Prompt } from '../llm/client.ts';
import { estimateOf, tokensOf } from './tokens.ts';

declare module 'fastify' {
  interface FastifyInstance {
    readonly limits: Limits;
  }
}

/** What one answer holds of its owner's allowance. */
export interface Grant {
  /** Gives the place back, and charges what was really used in place of what was estimated. Once. */
  end(usage: Usage | undefined, characters: number): void;
}

export interface Limits {
  /** Counts a request, and says in `RateLimit-*` headers what is left. @throws 429 with `retryAfterMs` */
  takeRequest(identity: Identity, reply: FastifyReply): Promise<void>;
  /** Holds a place for one answer, and its estimated tokens. @throws 429 with `retryAfterMs` */
  takeAnswer(identity: Identity, prompt: Prompt): Promise<Grant>;
}

const MINUTE_S = 60;
/** When to come back where it depends on others' answers. */
const BUSY_MS = 2_000;

/** `fastify.limits`: requests, tokens and answers at once, for each who asks. */
export default fp(
  async (fastify) => {
    /** One counter for each number of points; what it counts goes by owner. */
    const limiters = new Map<string, RateLimiterMemory>();
    const limiterOf = (kind: string, points: number, duration: number) => {
      const key = `${kind} ${points}`;
      const known = limiters.get(key);
      if (known) return known;
      const made = new RateLimiterMemory({ keyPrefix: kind, points, duration });
      limiters.set(key, made);
      return made;
    };

    const limits: Limits = {
      async takeRequest({ owner, requestsPerMinute }, reply) {
        if (requestsPerMinute === undefined) return;
        const limiter = limiterOf('requests', requestsPerMinute, MINUTE_S);
        const { result, passed } = await take(limiter, owner, 1);
        reply.header('ratelimit-limit', requestsPerMinute);
        reply.header('ratelimit-remaining', Math.max(0, result.remainingPoints));
        reply.header('ratelimit-reset', Math.ceil(result.msBeforeNext / 1000));
        if (!passed) throw limited(fastify, 'requests', result.msBeforeNext);
      },

      async takeAnswer({ owner, streams, tokensPerMinute }, prompt) {
        const running = streams === undefined ? undefined : limiterOf('streams', streams, 0);
        const budget = tokensPerMinute === undefined ? undefined : limiterOf('tokens', tokensPerMinute, MINUTE_S);
        if (running && !(await take(running, owner, 1)).passed) {
          await running.reward(owner, 1);
          throw limited(fastify, 'streams', BUSY_MS);
        }
        // A question larger than a minute's budget may be asked, with a whole minute's budget.
        const estimate = Math.min(estimateOf(prompt), tokensPerMinute ?? 0);
        let windowEnds = 0;
        if (budget) {
          const { result, passed } = await take(budget, owner, estimate);
          if (!passed) {
            await budget.reward(owner, estimate);
            await running?.reward(owner, 1);
            throw limited(fastify, 'tokens', result.msBeforeNext);
          }
          windowEnds = Date.now() + result.msBeforeNext;
        }
        return {
          end(usage, characters) {
            void running?.reward(owner, 1).then(({ consumedPoints }) => {
              if (consumedPoints <= 0) void running.delete(owner);
            });
            const difference = tokensOf(usage, prompt, characters) - estimate;
            if (difference > 0) void budget?.penalty(owner, difference);
            // The next minute has not been charged with the estimate, and gives nothing back.
            else if (difference < 0 && Date.now() < windowEnds) void budget?.reward(owner, -difference);
          },
        };
      },
    };
    fastify.decorate('limits', limits);

    // Whoever has a stream may read and stop it, past every limit; who guesses at one is counted there.
    fastify.addHook('preHandler', async ({ identity, routeOptions }, reply) => {
      if (routeOptions.config.access === 'api') await limits.takeRequest(identity, reply);
    });
  },
  { name: 'limits', dependencies: ['auth', 'errors'] },
);

async function take(limiter: RateLimiterMemory, owner: string, points: number) {
  try {
    return { result: await limiter.consume(owner, points), passed: true };
  } catch (result) {
    if (result instanceof RateLimiterRes) return { result, passed: false };
    throw result;
  }
}

const MESSAGES = {
  requests: 'Too many requests in this minute; ask again later.',
  tokens: 'Too many tokens in this minute; ask again later.',
  streams: 'Too many of your answers are running; ask again when one has ended.',
};

function limited(fastify: FastifyInstance, why: keyof typeof MESSAGES, retryAfterMs: number): Error {
  fastify.metrics.refusals.inc({ why: `limit_${why}` });
  return fastify.refusal({ status: 429, code: 'rate_limited', message: MESSAGES[why], retryAfterMs });
}
