import type { FastifyReply } from 'fastify';
import fp from 'fastify-plugin';
import type { Identity } from '../auth/identity.ts';
import type { ModelPrice } from '../config/price-file.ts';
import type { Prompt } from '../llm/client.ts';
import { UNITS_PER_USD } from './costs.ts';
import { BodyClaim, type MemoryBounds, MemoryBudget, sharesOf, type Taken } from './memory-budget.ts';
import { createRateLimiter, type RateResult } from './rate.ts';
import { type Charged, payerOf, payersOf, type Reservation, reservationOf, reserve } from './reservation.ts';
import { createTakes } from './takes.ts';
import { createTicketUse } from './ticket-use.ts';

declare module 'fastify' {
  interface FastifyInstance {
    readonly limits: Limits;
  }
}

export interface Limits {
  /** Counts a request and sets the `RateLimit-*` headers. @throws 429 with `retryAfterMs` */
  countRequest(identity: Identity, reply: FastifyReply): Promise<void>;
  /** Counts a request for an unknown stream: of a ticket by itself, of everybody else as `countRequest` does. */
  countGuess(identity: Identity, reply: FastifyReply): Promise<void>;
  /**
   * Reserves a slot for one generation, its estimated tokens, and their cost, and counts it for its ticket.
   * @param prices of all calls that the prompt may lead to; required for a caller with a budget
   * @param question id of the question: the same one uses a ticket once. Needed with a ticket
   * @throws 429 with `retryAfterMs`, 401 with `isTicketUsed` for a ticket that has started its questions
   */
  reserveGeneration(
    identity: Identity,
    prompt: Prompt,
    prices?: readonly ModelPrice[],
    question?: string,
  ): Promise<Reservation>;
  /** Returns the reservation of a generation that another replica has begun. Its slot and tokens stay with that replica. */
  adoptReservation(charged: Charged, prices: readonly ModelPrice[]): Reservation;
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
  /** Milliseconds for which an ended stream stays readable. */
  readonly streamTtlMs: number;
  /** Bytes of bodies that are received, and of prompts that are in use. */
  readonly prompts: MemoryBounds;
  /** Number of readers. */
  readonly readers: MemoryBounds;
}

/** `Retry-After` in milliseconds if memory is in use. */
const MEMORY_RETRY_MS = 2_000;

/** Requests beyond the limit in one minute that are refused immediately. Each further one waits a little longer. */
const IMMEDIATE_REFUSALS = 10;
const REFUSAL_DELAY_MS = { step: 10, max: 1_000 };

const MESSAGES = {
  requests: 'Too many requests in this minute; retry later.',
  prompts: 'Your questions in progress are too large together; retry when one is answered.',
  readers: 'Too many of your readers are connected; retry when one has left.',
};

const FULL = { prompts: 'The questions in progress fill the memory', readers: 'Too many readers are connected' };

function setRateHeaders(reply: FastifyReply, limit: number, { remaining, msBeforeNext }: RateResult): void {
  reply.header('ratelimit-limit', limit);
  reply.header('ratelimit-remaining', remaining);
  reply.header('ratelimit-reset', Math.ceil(msBeforeNext / 1000));
}

/** Adds `fastify.limits`: requests per minute, tokens per minute and day, concurrent generations, and costs, by owner. */
export default fp<LimitsOptions>(
  async (fastify, { expectedReplicas, streamTtlMs, ...bounds }) => {
    const { clock, cluster, metrics } = fastify;
    const prompts = new MemoryBudget(bounds.prompts.total);
    const readers = new MemoryBudget(bounds.readers.total);
    const onDegraded = () => metrics.limiterDegraded.inc();
    const ticketUse = createTicketUse({ cluster, expectedReplicas, streamTtlMs, onDegraded });
    const requestLimiter = createRateLimiter({ cluster, expectedReplicas, onDegraded });

    const refused = (kind: string, message: string, retryAfterMs: number) => {
      metrics.refusals.inc({ reason: `limit_${kind}` });
      return fastify.apiError({ status: 429, code: 'rate_limited', message, retryAfterMs });
    };
    const limited = (kind: keyof typeof MESSAGES, retryAfterMs: number) => refused(kind, MESSAGES[kind], retryAfterMs);

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

    const { takes, adopt } = createTakes({ clock, cluster, expectedReplicas, onDegraded, refused });

    const useTicket = async ({ ticket }: Identity, question: string) => {
      if (ticket === undefined || (await ticketUse.count(ticket, question))) return;
      const error = fastify.httpErrors.unauthorized('This ticket was used; request a new one.');
      throw Object.assign(error, { isTicketUsed: true });
    };

    const limits: Limits = {
      claimBody: (identity) => new BodyClaim(prompts, sharesOf(identity, bounds.prompts)),
      growClaim: (claim, bytes) => checkTaken('prompts', claim.grow(bytes)),
      claimReader(identity) {
        const shares = sharesOf(identity, bounds.readers);
        checkTaken('readers', readers.take(shares, 1));
        let isHeld = true;
        return () => {
          if (isHeld) readers.give(shares, 1);
          isHeld = false;
        };
      },

      async countRequest(identity, reply) {
        let isShown = false;
        for (const payer of payersOf(identity)) {
          const { requestsPerMinute } = payer;
          if (requestsPerMinute === undefined) continue;
          const result = await requestLimiter.count(payerOf(payer), requestsPerMinute);
          // A visitor is shown its own limit, and that of its key if that refuses.
          if (!isShown || !result.passed) setRateHeaders(reply, requestsPerMinute, result);
          isShown = true;
          if (result.passed) continue;
          await delayRefusal(result.excess);
          throw limited('requests', result.msBeforeNext);
        }
      },

      countGuess: (identity, reply) => limits.countRequest(identity.guesser ?? identity, reply),

      reserveGeneration: (identity, prompt, prices, question = '') =>
        reserve(takes, identity, prompt, () => useTicket(identity, question), prices),

      adoptReservation({ estimate, charges = [] }, prices) {
        const expected = Math.max(0, ...charges.map((charge) => charge.estimate)) / UNITS_PER_USD;
        return reservationOf(estimate, charges.map(adopt), prices, expected);
      },
    };
    fastify.decorate('limits', limits);
  },
  { name: 'limits', dependencies: ['clock', 'metrics', 'errors', 'redis'] },
);
