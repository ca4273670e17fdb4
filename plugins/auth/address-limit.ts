import type { FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { clientAddress } from '../client-address.ts';
import { WindowCounter } from '../window-counter.ts';

declare module 'fastify' {
  interface FastifyInstance {
    readonly addressLimit: AddressLimit;
  }
  interface FastifyContextConfig {
    /** True for a route that platforms and monitoring call: its requests do not count against the limit of their address. */
    isProbe?: boolean;
  }
}

/** Bounds the work for callers without valid credentials, by client address. Counts in this process only. */
export interface AddressLimit {
  /** Counts one piece of work and returns 0, or returns the milliseconds to wait if the limit of the address is used up. */
  count(request: FastifyRequest): number;
  /** Takes back one count, because the caller has turned out to have valid credentials. */
  takeBack(request: FastifyRequest): void;
  /** Returns the 429 of a request beyond the limit, and counts the refusal. */
  refusal(request: FastifyRequest, retryAfterMs: number): Error;
}

export interface AddressLimitOptions {
  /** 0 for no limit. */
  readonly perMinute: number;
  /** True if gateways are trusted to report the addresses of clients. */
  readonly trustsProxy: boolean;
}

const MINUTE_MS = 60_000;
/** Addresses that are counted at least. Beyond twice as many, those with the oldest requests are forgotten. */
const MAX_ADDRESSES = 50_000;

/**
 * Adds `fastify.addressLimit`, and applies it to public routes, unknown paths and wrong methods. A request with a valid
 * key is neither counted nor refused. `scope.ts` counts failed authentications.
 */
export default fp<AddressLimitOptions>(
  async (fastify, { perMinute, trustsProxy }) => {
    const counter = new WindowCounter(MINUTE_MS, MAX_ADDRESSES);
    let hasWarned = false;

    /** Clients behind a gateway that is not trusted share one address: the operator has to know. */
    const warnOfGateway = ({ headers, log }: FastifyRequest) => {
      const isForwarded = headers['x-forwarded-for'] !== undefined || headers.forwarded !== undefined;
      if (hasWarned || trustsProxy || !isForwarded) return;
      hasWarned = true;
      log.warn(
        'an address beyond limits.unauthenticatedPerMinute forwards others, which share its limit; if it is your gateway, set TRUST_PROXY',
      );
    };

    const addressLimit: AddressLimit = {
      count(request) {
        if (perMinute === 0) return 0;
        const address = clientAddress(request);
        const { count, msBeforeNext } = counter.add(address);
        if (count <= perMinute) return 0;
        // What is refused does not count: if those before it turn out to be valid, the limit is free again.
        counter.takeBack(address);
        return msBeforeNext;
      },
      takeBack(request) {
        if (perMinute !== 0) counter.takeBack(clientAddress(request));
      },
      refusal(request, retryAfterMs) {
        fastify.metrics.refusals.inc({ reason: 'limit_address' });
        warnOfGateway(request);
        const message = 'Too many requests without valid credentials from this address; retry later.';
        return fastify.apiError({ status: 429, code: 'rate_limited', message, retryAfterMs });
      },
    };
    fastify.decorate('addressLimit', addressLimit);

    fastify.addHook('onRequest', async (request) => {
      const { access, isProbe } = request.routeOptions.config;
      // Unknown paths have no access, and neither have routes outside the api scope.
      const isPublic = access === undefined || access === 'public';
      if (!isPublic || isProbe || fastify.auth.hasKey(request)) return;
      const retryAfterMs = addressLimit.count(request);
      if (retryAfterMs > 0) throw addressLimit.refusal(request, retryAfterMs);
    });
  },
  { name: 'address-limit', dependencies: ['metrics', 'errors'] },
);
