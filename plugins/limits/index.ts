import type { FastifyInstance, FastifyReply } from 'fastify';
import fp from 'fastify-plugin';
import type { Usage } from '../../providers/types.ts';
import type { Identity } from '../auth/identity.ts';
import type { Prompt } from '../llm/client.ts';
import { createRunning } from './concurrency.ts';
import { createRate, type Rate } from './rate.ts';
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

/** When to come back where it depends on others' answers. */
const BUSY_MS = 2_000;

/** `fastify.limits`: requests, tokens and answers at once, for each who asks. */
export default fp(
  async (fastify) => {
    const { shared, metrics, config } = fastify;
    const replicas = config.limits.expectedReplicas;
    const onDegraded = () => metrics.limiterDegraded.inc();
    const running = createRunning(shared, replicas, onDegraded);
    /** One counter for each number of points; what it counts goes by owner. */
    const rates = new Map<string, Rate>();
    const rateOf = (kind: string, points: number) => {
      const name = `${kind} ${points}`;
      const rate = rates.get(name) ?? createRate(kind, points, shared, replicas, onDegraded);
      rates.set(name, rate);
      return rate;
    };

    const limits: Limits = {
      async takeRequest({ owner, requestsPerMinute }, reply) {
        if (requestsPerMinute === undefined) return;
        const { passed, remainingPoints, msBeforeNext } = await rateOf('requests', requestsPerMinute).take(owner, 1);
        reply.header('ratelimit-limit', requestsPerMinute);
        reply.header('ratelimit-remaining', remainingPoints);
        reply.header('ratelimit-reset', Math.ceil(msBeforeNext / 1000));
        if (!passed) throw limited(fastify, 'requests', msBeforeNext);
      },

      async takeAnswer({ owner, maxConcurrent, tokensPerMinute }, prompt) {
        const budget = tokensPerMinute === undefined ? undefined : rateOf('tokens', tokensPerMinute);
        if (maxConcurrent !== undefined && !(await running.take(owner, maxConcurrent)))
          throw limited(fastify, 'concurrent', BUSY_MS);
        const release = () => {
          if (maxConcurrent !== undefined) running.release(owner);
        };
        // A question larger than a minute's budget may be asked, with a whole minute's budget.
        const estimate = Math.min(estimateOf(prompt), tokensPerMinute ?? 0);
        let windowEnds = 0;
        if (budget) {
          const { passed, msBeforeNext } = await budget.take(owner, estimate);
          if (!passed) {
            budget.correct(owner, -estimate);
            release();
            throw limited(fastify, 'tokens', msBeforeNext);
          }
          windowEnds = Date.now() + msBeforeNext;
        }
        return {
          end(usage, characters) {
            release();
            const difference = tokensOf(usage, prompt, characters) - estimate;
            // The next minute has not been charged with the estimate, and gives nothing back.
            if (difference > 0 || (difference < 0 && Date.now() < windowEnds)) budget?.correct(owner, difference);
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
  { name: 'limits', dependencies: ['config', 'metrics', 'auth', 'errors', 'redis'] },
);

const MESSAGES = {
  requests: 'Too many requests in this minute; ask again later.',
  tokens: 'Too many tokens in this minute; ask again later.',
  concurrent: 'Too many of your answers are running; ask again when one has ended.',
};

function limited(fastify: FastifyInstance, why: keyof typeof MESSAGES, retryAfterMs: number): Error {
  fastify.metrics.refusals.inc({ reason: `limit_${why}` });
  return fastify.refusal({ status: 429, code: 'rate_limited', message: MESSAGES[why], retryAfterMs });
}
