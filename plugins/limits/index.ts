import type { FastifyReply } from 'fastify';
import fp from 'fastify-plugin';
import type { Usage } from '../../providers/types.ts';
import { ANONYMOUS, type Identity } from '../auth/identity.ts';
import type { Prompt } from '../llm/client.ts';
import { BodyClaim, Budget, type BudgetBounds, type Taken } from './budget.ts';
import { createConcurrencyLimiter } from './concurrency.ts';
import { createRateLimiter } from './rate.ts';
import { createTokenLimiter } from './token-limiter.ts';
import { estimateTokens, sumOf, type TokenEstimate, type TokenUse, usedTokens } from './tokens.ts';

declare module 'fastify' {
  interface FastifyInstance {
    readonly limits: Limits;
  }
}

/** The slot and the tokens that one generation has reserved from its owner's limits. */
export interface Reservation {
  readonly estimate: TokenEstimate;
  /**
   * Releases the slot and charges the tokens that were used instead of the estimate. Returns them, also of an owner
   * without a limit. Call once.
   * @param usage tokens as the provider counted them; without a count the estimate is charged, or more if the answer is longer
   * @param characters length of the answer
   */
  settle(usage: Usage | undefined, characters: number): TokenUse;
}

export interface Limits {
  /** Counts a request and sets the `RateLimit-*` headers. @throws 429 with `retryAfterMs` */
  countRequest(identity: Identity, reply: FastifyReply): Promise<void>;
  /** Counts a request for an unknown stream: of a ticket by itself, of everybody else as `countRequest` does. */
  countGuess(identity: Identity, reply: FastifyReply): Promise<void>;
  /** Reserves a slot for one generation and its estimated tokens. @throws 429 with `retryAfterMs` */
  reserveGeneration(identity: Identity, prompt: Prompt): Promise<Reservation>;
  /** Creates a claim on the memory of bodies and prompts, without bytes. */
  claimBody(identity: Identity): BodyClaim;
  /** Adds bytes to a claim. @throws 429 or 503 with `retryAfterMs` if the owner's or the whole memory is in use */
  growClaim(claim: BodyClaim, bytes: number): void;
  /**
   * Claims memory for the unread output of one reader. The returned function releases it; idempotent.
   * @throws 429 or 503 with `retryAfterMs` as `growClaim` does
   */
  claimReader(identity: Identity): () => void;
}

export interface LimitsOptions {
  /** Number of replicas that share each limit while Redis is unavailable. */
  readonly expectedReplicas: number;
  /** Bytes of bodies that are received, and of prompts that are in use. */
  readonly prompts: BudgetBounds;
  /** Number of readers. */
  readonly readers: BudgetBounds;
}

/** `Retry-After` in milliseconds if memory is in use. */
const MEMORY_RETRY_MS = 2_000;

/** `Retry-After` in milliseconds if the concurrent answers of an owner are at the limit. */
const CONCURRENCY_RETRY_MS = 2_000;

/** Requests beyond the limit in one minute that are refused immediately. Each further one waits a little longer. */
const IMMEDIATE_REFUSALS = 10;
const REFUSAL_DELAY_MS = { step: 10, max: 1_000 };

const MESSAGES = {
  requests: 'Too many requests in this minute; retry later.',
  tokens: 'Too many tokens in this minute; retry later.',
  concurrent: 'Too many of your answers are running; retry when one has ended.',
  prompts: 'Your questions in progress are too large together; retry when one is answered.',
  readers: 'Too many of your readers are connected; retry when one has left.',
};

const FULL = { prompts: 'The questions in progress fill the memory', readers: 'Too many readers are connected' };

/** Without keys, all callers are one owner, which has no share of its own. */
function shareOf(owner: string): string | undefined {
  return owner === ANONYMOUS.owner ? undefined : owner;
}

/** Adds `fastify.limits`: requests per minute, tokens per minute and concurrent generations, by owner. */
export default fp<LimitsOptions>(
  async (fastify, { expectedReplicas, ...bounds }) => {
    const { clock, cluster, metrics } = fastify;
    const prompts = new Budget(bounds.prompts);
    const readers = new Budget(bounds.readers);
    const onDegraded = () => metrics.limiterDegraded.inc();
    const concurrency = createConcurrencyLimiter(cluster, expectedReplicas, onDegraded);
    const tokenLimiter = createTokenLimiter({ cluster, expectedReplicas, onDegraded });
    const requestLimiter = createRateLimiter({ cluster, expectedReplicas, onDegraded });

    const limited = (kind: keyof typeof MESSAGES, retryAfterMs: number) => {
      metrics.refusals.inc({ reason: `limit_${kind}` });
      return fastify.apiError({ status: 429, code: 'rate_limited', message: MESSAGES[kind], retryAfterMs });
    };

    const delayed = new Set<() => void>();
    fastify.addHook('onClose', async () => {
      for (const end of delayed) end();
    });
    /** A client that repeats refused requests as fast as it can would take the core from all others. */
    const delayRefusal = async (excess: number) => {
      const { step, max } = REFUSAL_DELAY_MS;
      const ms = Math.min(max, (excess - IMMEDIATE_REFUSALS) * step);
      if (ms <= 0) return;
      await new Promise<void>((resolve) => {
        const cancel = clock.after(ms, () => end());
        const end = () => {
          cancel();
          delayed.delete(end);
          resolve();
        };
        delayed.add(end);
      });
    };

    /** @throws the refusal of a budget, if it refused */
    const checkTaken = (kind: 'prompts' | 'readers', taken: Taken) => {
      if (taken === 'taken') return;
      if (taken === 'owner') throw limited(kind, MEMORY_RETRY_MS);
      metrics.refusals.inc({ reason: kind });
      const message = `${FULL[kind]}; retry later.`;
      throw fastify.apiError({ status: 503, code: 'overloaded', message, retryAfterMs: MEMORY_RETRY_MS });
    };

    const limits: Limits = {
      claimBody: ({ owner }) => new BodyClaim(prompts, shareOf(owner)),
      growClaim: (claim, bytes) => checkTaken('prompts', claim.grow(bytes)),
      claimReader({ owner }) {
        checkTaken('readers', readers.take(shareOf(owner), 1));
        let isHeld = true;
        return () => {
          if (isHeld) readers.give(shareOf(owner), 1);
          isHeld = false;
        };
      },

      async countRequest({ owner, payer = owner, requestsPerMinute }, reply) {
        if (requestsPerMinute === undefined) return;
        const { passed, remaining, excess, msBeforeNext } = await requestLimiter.count(payer, requestsPerMinute);
        reply.header('ratelimit-limit', requestsPerMinute);
        reply.header('ratelimit-remaining', remaining);
        reply.header('ratelimit-reset', Math.ceil(msBeforeNext / 1000));
        if (passed) return;
        await delayRefusal(excess);
        throw limited('requests', msBeforeNext);
      },

      countGuess: (identity, reply) => limits.countRequest(identity.guesser ?? identity, reply),

      async reserveGeneration({ owner, payer = owner, maxConcurrent, tokensPerMinute }, prompt) {
        if (maxConcurrent !== undefined && !(await concurrency.reserve(payer, maxConcurrent))) {
          throw limited('concurrent', CONCURRENCY_RETRY_MS);
        }
        const release = () => {
          if (maxConcurrent !== undefined) concurrency.release(payer);
        };
        // A question that is larger than the limit is allowed and uses all tokens of the minute.
        const estimate = estimateTokens(prompt, tokensPerMinute);
        let adjust = (_tokens: number) => {};
        if (tokensPerMinute !== undefined) {
          const charge = await tokenLimiter.charge(payer, tokensPerMinute, estimate.total);
          if (!charge.passed) {
            release();
            throw limited('tokens', charge.retryAfterMs);
          }
          adjust = charge.adjust;
        }
        return {
          estimate,
          settle(usage, characters) {
            release();
            const used = usedTokens(usage, characters, estimate);
            adjust(sumOf(used) - estimate.total);
            return used;
          },
        };
      },
    };
    fastify.decorate('limits', limits);
  },
  { name: 'limits', dependencies: ['clock', 'metrics', 'errors', 'redis'] },
);
