import type { FastifyInstance, FastifyReply } from 'fastify';
import fp from 'fastify-plugin';
import type { Usage } from '../../providers/types.ts';
import type { Identity } from '../auth/identity.ts';
import type { Prompt } from '../llm/client.ts';
import { createConcurrencyLimiter } from './concurrency.ts';
import { createRateLimiter, type RateLimiter } from './rate.ts';
import { estimateTokens, usedTokens } from './tokens.ts';

declare module 'fastify' {
  interface FastifyInstance {
    readonly limits: Limits;
  }
}

/** What one answer holds of its owner's allowance. */
export interface Reservation {
  /** Gives the place back, and charges what was really used in place of what was estimated. Once. */
  settle(usage: Usage | undefined, characters: number): void;
}

export interface Limits {
  /** Counts a request, and says in `RateLimit-*` headers what is left. @throws 429 with `retryAfterMs` */
  countRequest(identity: Identity, reply: FastifyReply): Promise<void>;
  /** Holds a place for one answer, and its estimated tokens. @throws 429 with `retryAfterMs` */
  reserveGeneration(identity: Identity, prompt: Prompt): Promise<Reservation>;
}

/** When to come back where it depends on others' answers. */
const CONCURRENCY_RETRY_MS = 2_000;

/** `fastify.limits`: requests, tokens and answers at once, for each who asks. */
export default fp(
  async (fastify) => {
    const { cluster, metrics, config } = fastify;
    const replicas = config.limits.expectedReplicas;
    const onDegraded = () => metrics.limiterDegraded.inc();
    const concurrency = createConcurrencyLimiter(cluster, replicas, onDegraded);
    /** One counter for each number of points; what it counts goes by owner. */
    const rateLimiters = new Map<string, RateLimiter>();
    const rateLimiter = (kind: string, points: number) => {
      const name = `${kind} ${points}`;
      const rate = rateLimiters.get(name) ?? createRateLimiter(kind, points, cluster, replicas, onDegraded);
      rateLimiters.set(name, rate);
      return rate;
    };

    const limits: Limits = {
      async countRequest({ owner, requestsPerMinute }, reply) {
        if (requestsPerMinute === undefined) return;
        const { passed, remainingPoints, msBeforeNext } = await rateLimiter('requests', requestsPerMinute).consume(
          owner,
          1,
        );
        reply.header('ratelimit-limit', requestsPerMinute);
        reply.header('ratelimit-remaining', remainingPoints);
        reply.header('ratelimit-reset', Math.ceil(msBeforeNext / 1000));
        if (!passed) throw rateLimitError(fastify, 'requests', msBeforeNext);
      },

      async reserveGeneration({ owner, maxConcurrent, tokensPerMinute }, prompt) {
        const budget = tokensPerMinute === undefined ? undefined : rateLimiter('tokens', tokensPerMinute);
        if (maxConcurrent !== undefined && !(await concurrency.reserve(owner, maxConcurrent)))
          throw rateLimitError(fastify, 'concurrent', CONCURRENCY_RETRY_MS);
        const release = () => {
          if (maxConcurrent !== undefined) concurrency.release(owner);
        };
        // A question larger than a minute's budget may be asked, with a whole minute's budget.
        const estimate = Math.min(estimateTokens(prompt), tokensPerMinute ?? 0);
        let windowEnds = 0;
        if (budget) {
          const { passed, msBeforeNext } = await budget.consume(owner, estimate);
          if (!passed) {
            budget.adjust(owner, -estimate);
            release();
            throw rateLimitError(fastify, 'tokens', msBeforeNext);
          }
          windowEnds = Date.now() + msBeforeNext;
        }
        return {
          settle(usage, characters) {
            release();
            const difference = usedTokens(usage, prompt, characters) - estimate;
            // The next minute has not been charged with the estimate, and gives nothing back.
            if (difference > 0 || (difference < 0 && Date.now() < windowEnds)) budget?.adjust(owner, difference);
          },
        };
      },
    };
    fastify.decorate('limits', limits);

    // Whoever has a stream may read and stop it, past every limit; who guesses at one is counted there.
    fastify.addHook('preHandler', async ({ identity, routeOptions }, reply) => {
      if (routeOptions.config.access === 'api') await limits.countRequest(identity, reply);
    });
  },
  { name: 'limits', dependencies: ['config', 'metrics', 'auth', 'errors', 'redis'] },
);

const MESSAGES = {
  requests: 'Too many requests in this minute; ask again later.',
  tokens: 'Too many tokens in this minute; ask again later.',
  concurrent: 'Too many of your answers are running; ask again when one has ended.',
};

function rateLimitError(fastify: FastifyInstance, why: keyof typeof MESSAGES, retryAfterMs: number): Error {
  fastify.metrics.refusals.inc({ reason: `limit_${why}` });
  return fastify.apiError({ status: 429, code: 'rate_limited', message: MESSAGES[why], retryAfterMs });
}
