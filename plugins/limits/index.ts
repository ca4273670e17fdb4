import type { FastifyReply } from 'fastify';
import fp from 'fastify-plugin';
import type { Usage } from '../../providers/types.ts';
import type { Identity } from '../auth/identity.ts';
import type { Prompt } from '../llm/client.ts';
import { createConcurrencyLimiter } from './concurrency.ts';
import { createRateLimiter, type RateLimiter } from './rate.ts';
import { createTokenLimiter } from './token-limiter.ts';
import { chargedTokens, estimateTokens } from './tokens.ts';

declare module 'fastify' {
  interface FastifyInstance {
    readonly limits: Limits;
  }
}

/** The slot and the tokens that one generation has reserved from its owner's limits. */
export interface Reservation {
  /**
   * Releases the slot and charges the tokens that were used instead of the estimate. Call once.
   * @param usage tokens as the provider counted them; without a count the estimate is charged, or more if the answer is longer
   * @param characters length of the answer
   */
  settle(usage: Usage | undefined, characters: number): void;
}

export interface Limits {
  /** Counts a request and sets the `RateLimit-*` headers. @throws 429 with `retryAfterMs` */
  countRequest(identity: Identity, reply: FastifyReply): Promise<void>;
  /** Counts a request for an unknown stream: of a ticket by itself, of everybody else as `countRequest` does. */
  countGuess(identity: Identity, reply: FastifyReply): Promise<void>;
  /** Reserves a slot for one generation and its estimated tokens. @throws 429 with `retryAfterMs` */
  reserveGeneration(identity: Identity, prompt: Prompt): Promise<Reservation>;
}

export interface LimitsOptions {
  /** Number of replicas that share each limit while Redis is unavailable. */
  readonly expectedReplicas: number;
}

/** `Retry-After` in milliseconds if the concurrent answers of an owner are at the limit. */
const CONCURRENCY_RETRY_MS = 2_000;

const MESSAGES = {
  requests: 'Too many requests in this minute; retry later.',
  tokens: 'Too many tokens in this minute; retry later.',
  concurrent: 'Too many of your answers are running; retry when one has ended.',
};

/** Adds `fastify.limits`: requests per minute, tokens per minute and concurrent generations, by owner. */
export default fp<LimitsOptions>(
  async (fastify, { expectedReplicas }) => {
    const { cluster, metrics } = fastify;
    const onDegraded = () => metrics.limiterDegraded.inc();
    const concurrency = createConcurrencyLimiter(cluster, expectedReplicas, onDegraded);
    const tokenLimiter = createTokenLimiter({ cluster, expectedReplicas, onDegraded });
    /** One limiter for each limit. A limiter counts by owner. */
    const requestLimiters = new Map<number, RateLimiter>();
    const requestLimiter = (points: number) => {
      const limiter =
        requestLimiters.get(points) ??
        createRateLimiter({ kind: 'requests', points, cluster, expectedReplicas, onDegraded });
      requestLimiters.set(points, limiter);
      return limiter;
    };

    const limited = (kind: keyof typeof MESSAGES, retryAfterMs: number) => {
      metrics.refusals.inc({ reason: `limit_${kind}` });
      return fastify.apiError({ status: 429, code: 'rate_limited', message: MESSAGES[kind], retryAfterMs });
    };

    const limits: Limits = {
      async countRequest({ owner, requestsPerMinute }, reply) {
        if (requestsPerMinute === undefined) return;
        const limiter = requestLimiter(requestsPerMinute);
        const { passed, remainingPoints, msBeforeNext } = await limiter.consume(owner, 1);
        reply.header('ratelimit-limit', requestsPerMinute);
        reply.header('ratelimit-remaining', remainingPoints);
        reply.header('ratelimit-reset', Math.ceil(msBeforeNext / 1000));
        if (!passed) throw limited('requests', msBeforeNext);
      },

      countGuess: (identity, reply) => limits.countRequest(identity.guesser ?? identity, reply),

      async reserveGeneration({ owner, maxConcurrent, tokensPerMinute }, prompt) {
        if (maxConcurrent !== undefined && !(await concurrency.reserve(owner, maxConcurrent))) {
          throw limited('concurrent', CONCURRENCY_RETRY_MS);
        }
        const release = () => {
          if (maxConcurrent !== undefined) concurrency.release(owner);
        };
        if (tokensPerMinute === undefined) return { settle: release };
        // A question that is larger than the limit is allowed and uses all tokens of the minute.
        const estimate = Math.min(estimateTokens(prompt), tokensPerMinute);
        const { passed, retryAfterMs, adjust } = await tokenLimiter.charge(owner, tokensPerMinute, estimate);
        if (!passed) {
          release();
          throw limited('tokens', retryAfterMs);
        }
        return {
          settle(usage, characters) {
            release();
            const difference = chargedTokens(usage, prompt, characters, estimate) - estimate;
            if (difference !== 0) adjust(difference);
          },
        };
      },
    };
    fastify.decorate('limits', limits);
  },
  { name: 'limits', dependencies: ['metrics', 'errors', 'redis'] },
);
